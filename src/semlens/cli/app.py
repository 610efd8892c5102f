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

from semlens.cli.mistyped import Command, meant_commands
from semlens.cli.outline import CommandOutline, outlines, stand_in
from semlens.errors import LensError, shortened
from semlens.lens import foreign, group_of, load_lens
from semlens.version import __version__

FIRST = "Everyday"
EVERYDAY = (
    "demo", "layers", "build", "search", "label", "map", "explain", "audit", "compare", "correct",
    "report", "serve",
)  # fmt: skip
"""The commands of the first panel of ``--help``."""
COMMANDS: dict[str, dict[str, str]] = {
    "Build": {
        "demo": "demo:demo",
        "layers": "status:layers",
        "build": "build:build",
        "merge": "merge:merge",
        "status": "status:status",
        "db verify": "status:verify",
        "db extend": "extend:extend",
        "db fit": "fit:fit",
        "db push": "publish:push",
        "db pull": "publish:pull",
        "db export": "serve:export",
        "db projector": "projector:projector",
    },
    "Search": {
        "search": "search:search",
        "label": "search:label",
        "show": "search:show",
        "labels import": "search:import_labels",
    },
    "Describe": {
        "map": "describe:map_components",
        "concepts dissect": "describe:dissect",
        "classes unexpected": "describe:unexpected",
    },
    "Explain": {
        "explain": "explain:explain",
        "graph": "explain:graph",
        "effect": "explain:effect",
        "class-relevance": "explain:class_relevance",
        "concepts tcav": "tcav:tcav",
        "classes prototypes": "explain:prototypes",
    },
    "Compare": {"compare": "compare:compare"},
    "Audit": {
        "audit": "audit:audit",
        "report": "audit:report",
    },
    "Correct": {
        "correct cut-out": "correct:cut_out",
        "correct prune": "correct:prune",
        "correct affected": "correct:affected",
        "correct retrain": "correct:retrain",
        "correct sensitivity": "correct:sensitivity",
    },
    "Study": {"study make": "study:study", "study results": "study:study_results"},
    "Serve": {"serve": "serve:serve", "mcp": "mcp:mcp"},
}
"""Module and function of each command with code of its own, by panel of ``--help``."""
NOUNS = {
    "db": "Check, extend, publish and export databases.",
    "labels": "Measure and import labels.",
    "concepts": "Look for given concepts: words, example images or masks.",
    "classes": "Examine what the model relies on for classes.",
    "correct": "Correct a model: find, cut out, prune and retrain.",
    "study": "Compare measures with people's judgement.",
}
"""What the commands below a noun are for."""


@cache
def panels() -> dict[str, str]:
    """Return the panel of each command of semlens, by its words, in the order of the lists."""
    generated = {
        words: outline["panel"] for words, outline in outlines().items() if "panel" in outline
    }
    listed = {
        words: panel
        for panel, commands in COMMANDS.items()
        for words in (*commands, *(w for w, its_panel in generated.items() if its_panel == panel))
    }
    first = [w for noun in EVERYDAY for w in listed if w.split()[0] == noun]
    return {words: FIRST for words in first} | {w: p for w, p in listed.items() if w not in first}


@cache
def foreign_panels() -> dict[str, str]:
    """Return the panel of each command of another package; of broken ones that of the package."""
    return {
        words: "Not usable" if isinstance(found, LensError) else group_of(found)
        for words, found in foreign().items()
        if words not in panels()
    }


def function_of(words: str) -> Callable[..., None]:
    """Import the function that a command runs."""
    target = next((commands[words] for commands in COMMANDS.values() if words in commands), None)
    if target is not None:
        module, _, function = target.partition(":")
        return getattr(import_module(f"semlens.cli.{module}"), function)
    from semlens.cli.command import question_command

    if words in panels():
        return question_command(load_lens(outlines()[words].get("lens", words)))
    from semlens.cli.output import report_errors

    @report_errors
    def checked() -> Callable[..., Any]:
        found = foreign()[words]
        if isinstance(found, LensError):
            raise found
        return found

    return question_command(checked())


class Commands(TyperGroup):
    """The commands below a noun, or all; they are imported on use: importing torch takes seconds.

    Those of other packages are imported for lists, and when no command of semlens has the name.
    """

    noun = ""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands and nouns in the order of the panels."""
        below = [words for words in (*panels(), *foreign_panels()) if words.startswith(self.noun)]
        return list(dict.fromkeys(words.removeprefix(self.noun).split()[0] for words in below))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command, or return a stand-in for the list of commands and for completion."""
        words = self.noun + cmd_name
        found = panels() if _has(panels(), words) else foreign_panels()
        if words not in found:
            return self._group(cmd_name, found) if _has(found, words) else None
        if ctx.meta.get("listing") or (ctx.resilient_parsing and words in panels()):
            callback = stand_in(_outline(words))
        else:
            try:
                callback = function_of(words)
            except KeyboardInterrupt:  # which Click would report as "Aborted." with code 1
                raise typer.Exit(130) from None
        panel = None if self.noun else found[words]
        info = CommandInfo(cmd_name, cls=Command, callback=callback, rich_help_panel=panel)
        return get_command_from_info(
            info, pretty_exceptions_short=True, rich_markup_mode="markdown"
        )

    def _group(self, noun: str, found: dict[str, str]) -> Commands:
        """Return the commands below a noun."""
        panel = next(panel for words, panel in found.items() if words.startswith(f"{noun} "))
        group = Commands(
            name=noun, help=NOUNS.get(noun, ""), no_args_is_help=True,
            rich_markup_mode="markdown", rich_help_panel=panel,
        )  # fmt: skip
        group.noun = f"{noun} "
        return group

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is named; for an unknown name, say what was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:  # its class is private to typer
            meant = meant_commands(args[0], [*panels(), *foreign_panels()])
            if meant and hasattr(error, "message"):
                names = " or ".join(f"'semlens {words}'" for words in meant)
                vars(error)["message"] += f" Did you mean {names}?"
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing them."""
        ctx.meta["listing"] = True
        super().format_help(ctx, formatter)


def _has(found: dict[str, str], words: str) -> bool:
    """Return whether these are the words of a command, or a noun."""
    return any(f"{known} ".startswith(f"{words} ") for known in found)


def _outline(words: str) -> CommandOutline:
    """Return the outline of a command; of another package's without its options."""
    if words in panels():
        return outlines()[words]
    found = foreign()[words]
    if isinstance(found, LensError):
        return {"summary": shortened(found.value), "options": []}
    return {"summary": (found.__doc__ or "").strip().partition("\n")[0], "options": []}


app = typer.Typer(
    cls=Commands,
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
