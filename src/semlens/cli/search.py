"""``semlens search``, ``label``, ``labels import`` and ``show``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import QuestionContext, command
from semlens.cli.output import (
    DatabaseArgument,
    JsonOption,
    err,
    out,
    print_json,
    print_written,
    report_errors,
    save_picture,
)
from semlens.lenses.labelling.label import label as ask_label
from semlens.lenses.labelling.labels import SHOWN, Labels
from semlens.lenses.result import IMAGE_SUFFIXES, check_suffix
from semlens.lenses.search.search import Hits
from semlens.lenses.search.search import search as ask_search


@command(ask_search)
def search(
    ask: QuestionContext,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to search for.")] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Image to search for, or a folder of images. Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Text to steer away from. Repeatable.")
    ] = None,
    without_image: Annotated[
        list[Path] | None,
        typer.Option(help="Image or folder of images to steer away from. Repeatable."),
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt template with {} for the text. Repeatable.")
    ] = None,
) -> Hits:
    """Find the components that are closest to texts and images.

    Several terms are averaged into one probe; a folder of images is one term, their mean. The
    alignment is the cosine similarity minus that of the empty prompt.

    Examples:

    semlens search r18.semlens watermark --save hits.png

    semlens search r18.semlens --image marked/ --without-image plain/

    semlens search r18.semlens "dog snout" --image dog.jpg --without grass --layer layer4
    """
    templates = {"templates": template} if template else {}
    hits: Hits = ask(
        *(texts or ()), images=image or (), without=without or (),
        without_images=without_image or (), **templates,
    )  # fmt: skip
    if not ask.save and hits.hits:
        err.print(
            f"To see examples: semlens show {ask.paths[0]} {hits[0].component}", highlight=False
        )
    return hits


@command(ask_label)
def label(
    ask: QuestionContext,
    rows: Annotated[int, typer.Option(min=0, help="Rows to print; 0 prints all.")] = SHOWN,
    keep: Annotated[
        str | None, typer.Option(help="Save the labels in the database under this name.")
    ] = None,
) -> Labels:
    """Label components with the concepts of a set, or "none" below the threshold.

    Examples:

    semlens label r18.semlens --layer layer4

    semlens label r18.semlens --concepts my-concepts.toml --threshold 0.05 --save labels.csv
    """
    labels: Labels = replace(ask(), shown=rows)
    if keep is not None:
        print_written(labels.save_to_database(keep))
    return labels


@report_errors
def show(
    database: DatabaseArgument,
    components: Annotated[list[str], typer.Argument(help="LAYER:INDEX, or LAYER:-INDEX.")],
    picture: Annotated[Path, typer.Option("--save", help="Picture to write.")] = Path(
        "examples.png"
    ),
    columns: Annotated[int, typer.Option(min=1, max=100, help="Examples per component.")] = 10,
    mask: Annotated[
        bool, typer.Option("--mask", help="Darken regions that the component does not respond to.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a picture of the examples of components, strongest first.

    Examples:

    semlens show r18.semlens layer4:17 layer4:230 --save components.png
    """
    check_suffix(picture, IMAGE_SUFFIXES)
    from semlens.api import open as open_database

    db = open_database(database)
    save_picture(db.show(components, columns, mask=mask), picture)
    if as_json:
        rank = db.manifest.recipe.rank
        examples = {
            name: [
                {"path": e.path, rank: e.activation, "box": list(e.box.as_tuple())}
                for e in db.examples_of(row)
            ]
            for name, row in zip(components, db.rows_of(components), strict=True)
        }
        print_json({"picture": str(picture.resolve()), "examples": examples})
    else:
        out.print(f"Written: {picture}", markup=False, highlight=False)


@report_errors
def import_labels(
    database: DatabaseArgument,
    file: Annotated[Path, typer.Argument(help="File of labels (.csv, .json, .jsonl).")],
    layer: Annotated[
        str | None, typer.Option(help="Layer that the file is about, if it has another name there.")
    ] = None,
    keep: Annotated[str, typer.Option(help="Name of the labels in the database.")] = "imported",
    as_json: JsonOption = False,
) -> None:
    """Save labels of another program in the database: CLIP-Dissect, or Neuronpedia for SAELens.

    They are then used wherever labels are.

    Examples:

    semlens labels import r50.semlens results/resnet50/descriptions.csv --keep clip-dissect

    semlens labels import sae.semlens explanations.jsonl --layer layer4@sae
    """
    from semlens.api import open as open_database

    labels = open_database(database).read_labels(file, layer=layer)
    written = labels.save_to_database(keep)
    if as_json:
        print_json(labels.to_json())
    else:
        out.print(labels)
        print_written(written)
