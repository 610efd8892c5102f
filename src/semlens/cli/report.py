"""``semlens report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from semlens.analysis.report.report import Report
from semlens.analysis.report.report import report as ask_report
from semlens.analysis.result import check_end
from semlens.cli.command import Ask, command
from semlens.cli.options import check_saved
from semlens.cli.output import err


@command(ask_report)
def report(
    ask: Ask,
    context: typer.Context,
    file: Annotated[Path, typer.Option("--out", help="File to write: .html.")] = Path(
        "report.html"
    ),
) -> Report:
    """Write all that is known of a class into one HTML file that can be handed over.

    It holds its pictures and asks nothing of any host. A part that could not be made says why.

    Examples:

    semlens report r18.semlens --target ox --concepts paper-ox --out ox.html

    semlens report r18.semlens --target ox --concepts ox.toml --artefact "text:© stock"
    --evaluated evaluated.json

    semlens report r18.semlens --saved 3 --out ox.html
    """
    check_end(file, (".html",))
    if "saved" in ask.settings:
        check_saved(context)
    found: Report = ask(command=["semlens", *sys.argv[1:]])
    found.save(file)
    err.print(f"Written: {file}", markup=False, highlight=False, soft_wrap=True)
    return found
