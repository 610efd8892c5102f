"""``semlens search``, ``label``, ``scores`` and ``show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from semlens.cli.options import Db, Json, Layer, Save, Spec, checked, opened, split
from semlens.cli.output import answer, err, out, print_json, reported, table
from semlens.errors import StoreError


def _save(picture: Image.Image, path: Path) -> None:
    if path.suffix.lower() not in Image.registered_extensions():
        raise StoreError(
            f"The picture cannot be written to '{path}'.",
            "Expected a path that ends in .png, .jpg or .webp.",
            "Choose another one.",
        )
    from semlens.store.files import write_atomic

    kind = Image.registered_extensions()[path.suffix.lower()]
    write_atomic(path, lambda part: picture.save(part, kind))
    err.print(f"wrote {path}", markup=False)


@reported
def search(
    database: Db,
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
    top: Annotated[int, typer.Option(min=1, help="How many components.")] = 10,
    layer: Layer = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the text; may be given again.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--out", help="Write the hits' examples as a picture.")
    ] = None,
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Find the components that are closest to texts and images.

    Several terms are averaged to one probe. The alignment is the cosine similarity less
    that of the empty prompt.

    Examples:

    semlens search r18.semlens watermark --out hits.png

    semlens search r18.semlens "dog snout" --image dog.jpg --without grass --layer layer4
    """
    from semlens.analysis.probe import SEARCH_TEMPLATES

    db = opened(database, embedder)
    hits = db.search(
        *(texts or ()),
        images=image or (),
        without=without or (),
        without_images=without_image or (),
        top=top,
        layers=split(layer),
        templates=tuple(template) if template else SEARCH_TEMPLATES,
    )
    if picture is not None:
        _save(hits.picture(), picture)
    if as_json:
        print_json(hits.to_json())
        return
    frame = hits.to_pandas()
    frame.insert(1, "component", [str(hit.component) for hit in hits.hits])
    columns = ["rank", "component", "alignment", "cosine"]
    table(frame, f"'{hits.query}' among {hits.searched} components", columns)
    if picture is None and len(hits):
        out.print(f"See them: semlens show {database} {hits[0].component}", highlight=False)


@reported
def label(
    database: Db,
    concepts: Annotated[
        str, typer.Option(help="File (.toml, .json, .csv) or name of a bundled concept set.")
    ] = "paper-vocabulary",
    layer: Layer = None,
    threshold: Annotated[float, typer.Option(help="Least alignment of a label.")] = 0.025,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates per component.")] = 3,
    rows: Annotated[int, typer.Option(help="Lines to print; 0 for all.")] = 40,
    save: Annotated[
        str | None, typer.Option(help="Keep the table in the database under this name.")
    ] = None,
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Label components with the concepts of a set; "none" below the threshold.

    Examples:

    semlens label r18.semlens --layer layer4

    semlens label r18.semlens --concepts my-concepts.toml --threshold 0.05 --json
    """
    db = opened(database, embedder)
    labels = db.label(concepts, layers=split(layer), threshold=threshold, candidates=candidates)
    if save is not None:
        err.print(f"wrote {labels.save(save)}", markup=False)
    if as_json:
        print_json(labels.to_json())
        return
    frame = labels.to_pandas()
    frame.insert(0, "component", [str(db.component(int(row))) for row in labels.rows])
    frame["label"] = frame["label"].fillna("none")
    kept = labels.labelled
    shown = frame if rows <= 0 else frame.head(rows)
    columns = ["component", "label", "alignment", "margin", "candidates"]
    table(shown, f"{kept} of {len(frame)} labelled from '{labels.concepts.name}'", columns)
    if len(shown) < len(frame):
        out.print(f"{len(frame) - len(shown)} more: --rows 0")


@reported
def scores(
    database: Db,
    layer: Layer = None,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Rate how interpretable components are: clarity, redundancy, polysemanticity.

    Examples:

    semlens scores r18.semlens

    semlens scores r18.semlens --layer layer4 --save scores.csv --save scores.png
    """
    files = checked(save)
    db = opened(database)
    with err.status("rating the components"):
        result = db.scores(split(layer))
    answer(result, as_json, files)


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
    db = opened(database)
    _save(db.show(components, columns, mask=mask), picture)
    if as_json:
        from semlens.types import Component

        found = {
            name: [
                {"path": e.path, "activation": e.activation, "box": list(e.box.as_tuple())}
                for e in db.examples_of(db.row(Component.parse(name)))
            ]
            for name in components
        }
        print_json({"picture": str(picture.resolve()), "examples": found})
