"""``semlens unexpected``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.analysis.describe.unexpected import Unexpected
from semlens.analysis.describe.unexpected import unexpected as ask_unexpected
from semlens.analysis.result import check_end
from semlens.cli.command import Ask, command
from semlens.cli.output import written


@command(ask_unexpected)
def unexpected(
    ask: Ask,
    files: Annotated[
        Path | None, typer.Option(help="Write the samples behind them to this .csv file.")
    ] = None,
) -> Unexpected:
    """Show what a class relies on and no concept of a set describes.

    For each such component: the nearest concepts all the same, the other classes that it
    drives, and the files that it comes from.

    Examples:

    semlens unexpected r18.semlens --target ox

    semlens unexpected r18.semlens --target ox --concepts expected.toml --layer layer4
    --files ox-files.csv --save ox.png
    """
    if files is not None:
        check_end(files, (".csv",))
    found: Unexpected = ask()
    if files is not None:
        found.save_files(files)
        written(files)
    return found
