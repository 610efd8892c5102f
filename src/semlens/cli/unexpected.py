"""``semlens unexpected``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.options import (
    Concepts,
    Db,
    Json,
    Layer,
    Save,
    Spec,
    checked,
    concept_set,
    opened,
    split,
)
from semlens.cli.output import answer, err, reported


@reported
def unexpected(
    database: Db,
    target: Annotated[str, typer.Option(help="Class, by name or by the number of its logit.")],
    concepts: Concepts = None,
    layer: Layer = None,
    minimum: Annotated[
        float, typer.Option(min=0, help="Least share of a component, on its best image.")
    ] = 0.01,
    threshold: Annotated[
        float | None,
        typer.Option(help="A component without an alignment above this has no label [0]."),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Components at most.")] = None,
    files: Annotated[
        Path | None, typer.Option(help="Write the samples behind them to this .csv file.")
    ] = None,
    save: Save = None,
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Show what a class relies on and no concept of a set describes.

    For each such component: the nearest concepts all the same, the other classes that it
    drives, and the files that it comes from.

    Examples:

    semlens unexpected r18.semlens --target ox

    semlens unexpected r18.semlens --target ox --concepts expected.toml --layer layer4
    --files ox-files.csv --save ox.png
    """
    from semlens.analysis.result import check_end

    paths = checked(save)
    if files is not None:
        check_end(files, (".csv",))
    known = concept_set(concepts or ["paper-vocabulary"])
    db = opened(database, embedder=embedder)
    layers = split(layer)
    with err.status("comparing with the concepts"):
        found = db.unexpected(
            target, known, layers=layers, threshold=threshold, minimum=minimum, top=top
        )
    if files is not None:
        found.save_files(files)
        err.print(f"Written: {files}", markup=False, highlight=False, soft_wrap=True)
    answer(found, as_json, paths)
