"""The ``semlens`` command."""

from __future__ import annotations

from collections.abc import Callable
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
    export,
    graph,
    inspect,
    make,
    modeltest,
    relevance,
    report,
    serve,
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
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Build": {
        "build": make.build,
        "status": inspect.status,
        "layers": inspect.layers,
        "demo": demo.demo,
    },
    "Browse": {
        "serve": serve.serve,
        "export": export.export,
    },
    "Search": {
        "search": ask.search,
        "label": ask.label,
        "show": ask.show,
        "scores": ask.scores,
    },
    "Describe": {
        "map": map_command.map_components,
        "dissect": dissect.dissect,
        "unexpected": unexpected.unexpected,
    },
    "Explain": {
        "relevance": relevance.relevance,
        "explain": explain.explain,
        "graph": graph.graph,
        "effect": explain.effect,
    },
    "Compare": {
        "compare": compare.compare,
    },
    "Audit": {
        "audit": audit.audit,
        "test": modeltest.test,
        "report": report.report,
    },
    "Correct": {
        "cutout": cutout.cutout,
        "prune": correct.prune,
        "affected": correct.affected,
        "retrain": correct.retrain,
        "evaluate": correct.evaluate,
    },
}
"""Commands by the panel of ``--help`` that they stand in."""
for _panel, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)


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
