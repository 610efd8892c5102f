"""``semlens db projector``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import split_commas
from semlens.cli.output import (
    DatabaseArgument,
    EmbedderOption,
    JsonOption,
    out,
    print_json,
    report_errors,
)


@report_errors
def projector(
    database: DatabaseArgument,
    folder: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("projector"),
    layers: Annotated[
        list[str] | None, typer.Option("--layer", "--layers", help="Only these layers.")
    ] = None,
    crops: Annotated[
        bool, typer.Option("--crops/--no-crops", help="Show each component by its first example.")
    ] = True,
    embedder: EmbedderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write concept vectors, labels and crops for the embedding projector of TensorBoard.

    Examples:

    semlens db projector r18.semlens --out projector

    semlens db projector r18.semlens --layer layer4 --no-crops
    """
    from semlens.api import open as open_database
    from semlens.progress import progress_bars

    with progress_bars():
        written = open_database(database, embedder=embedder).save_projector(
            folder, split_commas(layers) if layers else None, crops=crops
        )
    if as_json:
        print_json(asdict(written) | {"folder": str(written.folder.resolve())})
        return
    out.print(
        f"{written.components} vectors of {written.dim} dimensions, "
        f"labels: {written.labels or 'none'}.\n"
        f"Open them with: tensorboard --logdir {written.folder}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
