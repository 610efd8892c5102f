"""The ``semlens`` app; the module of a command is imported only when the command is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

from semlens.cli.mistyped import Command
from semlens.cli.outline import outlines, stand_in
from semlens.lens import load_lens
from semlens.version import __version__

COMMANDS: dict[str, dict[str, str]] = {
    "Build": {
        "build": "build:build",
        "merge": "merge:merge",
        "extend": "extend:extend",
        "fit": "fit:fit",
        "status": "status:status",
        "verify": "status:verify",
        "layers": "status:layers",
        "demo": "demo:demo",
    },
    "Publish": {"push": "publish:push", "pull": "publish:pull"},
    "Browse": {
        "serve": "serve:serve",
        "export": "serve:export",
        "projector": "projector:projector",
        "mcp": "mcp:mcp",
    },
    "Search": {
        "search": "search:search",
        "label": "search:label",
        "import-labels": "search:import_labels",
        "show": "search:show",
    },
    "Describe": {
        "map": "describe:map_components",
        "dissect": "describe:dissect",
        "unexpected": "describe:unexpected",
        "label-stability": "describe:label_stability",
        "study": "study:study",
        "study-results": "study:study_results",
    },
    "Explain": {
        "relevance": "explain:relevance",
        "explain": "explain:explain",
        "graph": "explain:graph",
        "effect": "explain:effect",
        "tcav": "tcav:tcav",
        "prototypes": "explain:prototypes",
    },
    "Compare": {"compare": "compare:compare"},
    "Audit": {
        "audit": "audit:audit",
        "test": "audit:test",
        "report": "audit:report",
        "evidence": "audit:evidence",
    },
    "Correct": {
        "cutout": "correct:cutout",
        "prune": "correct:prune",
        "affected": "correct:affected",
        "retrain": "correct:retrain",
        "evaluate": "correct:evaluate",
    },
}
"""Module and function of each command with code of its own, by panel of ``--help``."""


@cache
def panels() -> dict[str, str]:
    """Return the panel of each command, in the order in which they are listed."""
    generated = {
        name: outline["panel"] for name, outline in outlines().items() if "panel" in outline
    }
    return {
        name: panel
        for panel, names in COMMANDS.items()
        for name in (*names, *(n for n, its_panel in generated.items() if its_panel == panel))
    }


def function_of(name: str) -> Callable[..., None]:
    """Import the function that a command runs."""
    target = COMMANDS[panels()[name]].get(name)
    if target is None:
        from semlens.cli.command import question_command

        return question_command(load_lens(outlines()[name].get("lens", name)))
    module, _, function = target.partition(":")
    return getattr(import_module(f"semlens.cli.{module}"), function)


class _Commands(TyperGroup):
    """Commands that are imported on use: importing torch takes seconds."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of the panels."""
        return list(panels())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command, or return a stand-in for the list of commands and for completion."""
        if cmd_name not in panels():
            return None
        completing = ctx.resilient_parsing
        if completing or ctx.meta.get("listing"):
            callback = stand_in(outlines()[cmd_name])
        else:
            try:
                callback = function_of(cmd_name)
            except KeyboardInterrupt:  # which Click would report as "Aborted." with code 1
                raise typer.Exit(130) from None
        panel = panels()[cmd_name]
        info = CommandInfo(cmd_name, cls=Command, callback=callback, rich_help_panel=panel)
        return get_command_from_info(
            info, pretty_exceptions_short=True, rich_markup_mode="markdown"
        )

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        ctx.meta["listing"] = True
        super().format_help(ctx, formatter)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Search, describe and audit what a vision model has learned.\n\n"
    "Start with `semlens demo`, then run `semlens build` with your own model and images.",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"semlens {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Search, describe and audit what a vision model has learned."""
