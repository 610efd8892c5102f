"""``semlens search``, ``label`` and ``show``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from semlens.analysis.label import SHOWN, Labels
from semlens.analysis.label import label as ask_label
from semlens.analysis.result import PICTURES, check_end
from semlens.analysis.search import Hits
from semlens.analysis.search import search as ask_search
from semlens.cli.command import QuestionContext, command
from semlens.cli.output import Db, Json, err, out, print_json, reported, save_picture, written


@command(ask_search)
def search(
    ask: QuestionContext,
    texts: Annotated[list[str] | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to look for; may be given again.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A text to stay away from; may be given again.")
    ] = None,
    without_image: Annotated[
        list[Path] | None, typer.Option(help="A picture to stay away from.")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the text; may be given again.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--out", help="Write the hits' examples as a picture.")
    ] = None,
) -> Hits:
    """Find the components that are closest to texts and images.

    Several terms are averaged to one probe. The alignment is the cosine similarity less
    that of the empty prompt.

    Examples:

    semlens search r18.semlens watermark --out hits.png

    semlens search r18.semlens "dog snout" --image dog.jpg --without grass --layer layer4
    """
    ask.also(picture, PICTURES, Hits.save)
    templates = {"templates": template} if template else {}
    hits: Hits = ask(
        *(texts or ()), images=image or (), without=without or (),
        without_images=without_image or (), **templates,
    )  # fmt: skip
    if picture is None and hits.hits:
        err.print(f"See them: semlens show {ask.paths[0]} {hits[0].component}", highlight=False)
    return hits


@command(ask_label)
def label(
    ask: QuestionContext,
    rows: Annotated[int, typer.Option(min=0, help="Lines to print; 0 for all.")] = SHOWN,
    keep: Annotated[
        str | None, typer.Option(help="Keep the table in the database under this name.")
    ] = None,
) -> Labels:
    """Label components with the concepts of a set; "none" below the threshold.

    Examples:

    semlens label r18.semlens --layer layer4

    semlens label r18.semlens --concepts my-concepts.toml --threshold 0.05 --save labels.csv
    """
    labels: Labels = replace(ask(), shown=rows)
    if keep is not None:
        written(labels.keep(keep))
    return labels


@reported
def show(
    database: Db,
    components: Annotated[list[str], typer.Argument(help="LAYER:INDEX, or LAYER:-INDEX.")],
    picture: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("examples.png"),
    columns: Annotated[int, typer.Option(min=1, max=100, help="Examples per component.")] = 10,
    mask: Annotated[
        bool, typer.Option("--mask", help="Darken what the component does not react to.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a picture of components' examples, strongest first.

    Examples:

    semlens show r18.semlens layer4:17 layer4:230 --out components.png
    """
    check_end(picture, PICTURES)
    from semlens.api import open as open_database

    db = open_database(database)
    save_picture(db.show(components, columns, mask=mask), picture)
    if as_json:
        found = {
            name: [
                {"path": e.path, "activation": e.activation, "box": list(e.box.as_tuple())}
                for e in db.examples_of(row)
            ]
            for name, row in zip(components, db.rows_of(components), strict=True)
        }
        print_json({"picture": str(picture.resolve()), "examples": found})
    else:
        out.print(f"Written: {picture}", markup=False, highlight=False)
