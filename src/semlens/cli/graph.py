"""``semlens graph``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer
from PIL import Image

from semlens.cli.options import Data, Db, Json, Layer, Spec, Subject, labelled, opened, split
from semlens.cli.output import err, out, print_json, reported, table
from semlens.cli.progress import progress_bars
from semlens.errors import ConceptError

if TYPE_CHECKING:
    from semlens.analysis.graph.graph import AttributionGraph
    from semlens.analysis.label import Labels
    from semlens.api import ConceptDatabase
    from semlens.data.images import Images
    from semlens.models.subject import SubjectModel
    from semlens.types import Component

LINES = 12
"""Groups of a layer in the table."""


@reported
def graph(
    database: Db,
    target: Annotated[str, typer.Option(help="Class: its name, or the number of its logit.")],
    image: Annotated[
        Path | None, typer.Option(help="One picture, instead of the data's images of the class.")
    ] = None,
    concepts: Annotated[
        str,
        typer.Option(
            help="Concept set that labels the components: a file or a bundled one; 'none' "
            "shows them singly."
        ),
    ] = "paper-vocabulary",
    threshold: Annotated[float, typer.Option(help="Least alignment of a label.")] = 0.01,
    labels: Annotated[
        str | None,
        typer.Option(help="Labels kept by 'semlens label --save', instead of a concept set."),
    ] = None,
    layer: Layer = None,
    minimum: Annotated[
        float, typer.Option(min=0, help="Least share of a component, on its best image.")
    ] = 0.01,
    top: Annotated[int | None, typer.Option(min=1, help="Components per layer at most.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Images of the class.")] = 30,
    save: Annotated[
        Path | None, typer.Option(help="File to write, .svg, .png or .json [CLASS.svg].")
    ] = None,
    model: Subject = None,
    data: Data = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps [cuda or cpu].")
    ] = None,
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Show which concepts a class rests on, layer by layer, and what passes between them.

    Components that matter for the class are grouped by their labels; those without are "?".
    A line shows how much relevance a lower group gets from an upper one.

    Examples:

    semlens graph r18.semlens --target "tiger shark"

    semlens graph r18.semlens --target 291 --image lion.jpg --concepts my-concepts.toml
    --save lion.png
    """
    from semlens.analysis.graph.graph import attribution_graph, check_path
    from semlens.analysis.target import class_samples, find_class
    from semlens.data.images import read_file
    from semlens.data.pixels import decode

    if save is not None:
        check_path(save)
    db = opened(database, embedder=embedder)
    chosen = find_class(db, target)
    layers = split(layer)
    db.rows(layers)  # a wrong name is told before anything is computed
    picture = None if image is None else decode(read_file(image), str(image))
    rows = None if picture is not None else class_samples(db, chosen, samples)
    known = _labels(db, concepts, threshold, labels, layers)
    images, subject = _loaded(db, picture, model, data, device)
    with progress_bars() as report:
        found = attribution_graph(
            db, subject, images, chosen, known, samples=rows, layers=layers, minimum=minimum,
            top=top, progress=report,
        )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    path = save or (None if as_json else Path(f"{_file_name(found.name)}.svg"))
    if path is not None:
        found.save(path)
        err.print(f"wrote {path}", markup=False)
    if not as_json:
        _print(found)


def _labels(
    db: ConceptDatabase,
    concepts: str,
    threshold: float,
    saved: str | None,
    layers: list[str] | None,
) -> Labels | Mapping[Component, str] | None:
    if saved is not None:
        return _saved(db, saved)
    return labelled(db, concepts, layers, threshold)


def _saved(db: ConceptDatabase, name: str) -> dict[Component, str]:
    from semlens.types import Component

    frame = db.load_analysis(f"labels-{name}")
    if frame is None:
        raise ConceptError(
            f"The database '{db.path}' has no labels '{name}'.",
            "Expected labels that were kept since its last build.",
            f"Run: semlens label {db.path} --concepts SET --save {name}",
        )
    records: list[dict[str, Any]] = frame.to_dict("records")
    return {
        Component(part["layer"], part["index"], part["sign"]): part["label"]
        for part in records
        if part["label"] is not None
    }


def _loaded(
    db: ConceptDatabase,
    picture: Image.Image | None,
    model: str | None,
    data: str | None,
    device: str | None,
) -> tuple[Images | list[Image.Image], SubjectModel]:
    """Load the images, unless a picture was given, and the model again."""
    import torch

    images: Images | list[Image.Image] = [picture] if picture is not None else []
    if picture is None:
        with err.status("checking the images"):
            images = db.load_images(data)
    with err.status("loading the model"):
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return images, db.load_model(model, where)


def _print(found: AttributionGraph) -> None:
    images = f"{found.images} image" + ("s" if found.images != 1 else "")
    out.print(f"'{found.name}', {images}, rules {found.rules}", highlight=False, markup=False)
    for name in reversed(found.layers):
        nodes = [node for node in found.nodes if node.layer == name]
        shown = pd.DataFrame(
            [(n.label, n.mean, n.maximum, _few(n.components)) for n in nodes[:LINES]],
            columns=["label", "share", "maximum", "components"],
        )
        heading = f"\n{name}: {found.share_shown[name]:.0%} of its relevance"
        table(shown, heading + (f", {LINES} of {len(nodes)} groups" * (len(nodes) > LINES)))
    edges = f"{len(found.edges)} connections show {found.overall:.0%} of the relevance."
    out.print("\n" + edges, highlight=False)
    if found.overall < _LITTLE:
        lower = f"Lower --minimum (it was {found.minimum:g}) to see more of it."
        out.print(lower, highlight=False)


_LITTLE = 0.25
"""Under this share of the relevance, a graph says too little to be read."""


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _file_name(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
    return kept.strip("-") or "graph"
