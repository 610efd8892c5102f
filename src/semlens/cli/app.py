"""The ``semlens`` command; a command's module is imported when it is run or asked for help."""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

from semlens.version import __version__

COMMANDS: dict[str, dict[str, str]] = {
    "Build": {
        "build": "build:build",
        "status": "build:status",
        "layers": "build:layers",
        "demo": "demo:demo",
    },
    "Browse": {"serve": "serve:serve", "export": "serve:export"},
    "Search": {
        "search": "search:search",
        "label": "search:label",
        "show": "search:show",
        "scores": "search:scores",
    },
    "Describe": {
        "map": "describe:map_components",
        "dissect": "describe:dissect",
        "unexpected": "describe:unexpected",
    },
    "Explain": {
        "relevance": "explain:relevance",
        "explain": "explain:explain",
        "graph": "explain:graph",
        "effect": "explain:effect",
    },
    "Compare": {"compare": "compare:compare", "contrast": "contrast:contrast"},
    "Audit": {
        "audit": "audit:audit",
        "test": "audit:test",
        "border-swap": "contrast:border_swap",
        "report": "audit:report",
    },
    "Correct": {
        "cutout": "correct:cutout",
        "prune": "correct:prune",
        "affected": "correct:affected",
        "retrain": "correct:retrain",
        "evaluate": "correct:evaluate",
    },
}
"""Modules and functions of the commands, by the panel of ``--help`` that they stand in."""
_PANELS = {name: panel for panel, names in COMMANDS.items() for name in names}


class _Commands(TyperGroup):
    """Commands that are imported late: torch takes seconds, and a list of commands needs none."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the panels."""
        return list(_PANELS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; while help is listed, one that only knows its summary."""
        if cmd_name not in _PANELS:
            return None
        panel = _PANELS[cmd_name]
        module, _, function = COMMANDS[panel][cmd_name].partition(":")
        if ctx.meta.get("listing"):
            return TyperCommand(
                cmd_name, help=_summary(module, function), rich_help_panel=panel,
                rich_markup_mode="markdown",
            )  # fmt: skip
        callback = getattr(import_module(f"semlens.cli.{module}"), function)
        info = CommandInfo(cmd_name, callback=callback, rich_help_panel=panel)
        return get_command_from_info(
            info, pretty_exceptions_short=True, rich_markup_mode="markdown"
        )

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        ctx.meta["listing"] = True
        super().format_help(ctx, formatter)


@cache
def _summary(module: str, function: str) -> str:
    """Read the first line of a command's docstring from its source."""
    spec = find_spec(f"semlens.cli.{module}")
    source = Path(str(spec.origin)).read_text("utf-8") if spec else ""
    found = {d.name: d for d in ast.parse(source).body if isinstance(d, ast.FunctionDef)}
    return (ast.get_docstring(found[function]) or "").partition("\n")[0]


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Search, describe and audit what a vision model has learned.\n\n"
    "Start with `semlens demo`; then `semlens build` for your own model and images.",
)


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
