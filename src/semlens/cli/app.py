"""The ``semlens`` command."""

from __future__ import annotations

from typing import Annotated

import typer

from semlens import __version__
from semlens.cli import (
    ask,
    audit,
    compare,
    correct,
    cutout,
    demo,
    dissect,
    explain,
    graph,
    inspect,
    make,
    modeltest,
    relevance,
    report,
    unexpected,
)
from semlens.cli import map as map_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Search, describe and audit what a vision model has learned.\n\n"
    "Start with `semlens demo`; then `semlens build` for your own model and images.",
)
app.command("build")(make.build)
app.command("status")(inspect.status)
app.command("layers")(inspect.layers)
app.command("search")(ask.search)
app.command("label")(ask.label)
app.command("scores")(ask.scores)
app.command("show")(ask.show)
app.command("relevance")(relevance.relevance)
app.command("explain")(explain.explain)
app.command("graph")(graph.graph)
app.command("effect")(explain.effect)
app.command("map")(map_command.map_components)
app.command("unexpected")(unexpected.unexpected)
app.command("dissect")(dissect.dissect)
app.command("compare")(compare.compare)
app.command("audit")(audit.audit)
app.command("test")(modeltest.test)
app.command("cutout")(cutout.cutout)
app.command("prune")(correct.prune)
app.command("affected")(correct.affected)
app.command("retrain")(correct.retrain)
app.command("evaluate")(correct.evaluate)
app.command("report")(report.report)
app.command("demo")(demo.demo)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"semlens {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Search, describe and audit what a vision model has learned."""
