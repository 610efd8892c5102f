"""What the list of commands and the shell's completion need, without importing a command.

A command's module imports torch, which takes seconds; ``outline.json`` is read in milliseconds.
``docs/generate.py`` writes it from the commands themselves.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import typer

KEYWORD = inspect.Parameter.KEYWORD_ONLY
FILE = Path(__file__).with_name("outline.json")


class OptionOutline(TypedDict):
    """An option of a command."""

    names: list[str]
    """As typer takes them: ``["--layer", "--layers"]``, ``["--verify/--no-verify"]``."""
    help: str
    flag: bool
    choices: list[str]
    """Values to choose from; empty if any text of its type will do."""


class CommandOutline(TypedDict):
    """A command, for its line in ``semlens --help`` and for completion."""

    summary: str
    options: list[OptionOutline]
    question: NotRequired[str]
    """Module and function, of a command that is nothing but a question."""
    panel: NotRequired[str]
    """The panel of ``semlens --help`` of such a command."""


@cache
def outlines() -> dict[str, CommandOutline]:
    """Read the outline of each command by name."""
    return json.loads(FILE.read_text("utf-8"))


def stand_in(outline: CommandOutline) -> Callable[..., None]:
    """Return a function with a command's summary and options that does nothing."""

    def command(**_: Any) -> None: ...

    command.__doc__ = outline["summary"]
    # one argument for all: what a shell completes there are file names, which it does by itself
    words = Annotated[list[str] | None, typer.Argument()]
    parameters = [inspect.Parameter("words", KEYWORD, annotation=words, default=None)]
    for number, option in enumerate(outline["options"]):
        choices: Any = Literal[tuple(option["choices"])] if option["choices"] else str
        kind = bool if option["flag"] else choices
        annotation = Annotated[kind | None, typer.Option(*option["names"], help=option["help"])]
        parameters.append(
            inspect.Parameter(f"option{number}", KEYWORD, annotation=annotation, default=None)
        )
    return with_parameters(command, parameters)


def with_parameters(
    function: Callable[..., None], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """Give a function of keywords the signature that typer reads its options from."""
    function.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function
