"""Outlines of the commands, for ``--help`` and shell completion without importing a command.

The module of a command imports torch, which takes seconds; ``outline.json`` is read in
milliseconds. ``docs/generate.py`` generates it from the commands.
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
    """In the form of typer: ``["--layer", "--layers"]``, ``["--verify/--no-verify"]``."""
    help: str
    flag: bool
    choices: list[str]
    """Allowed values; empty if any value of its type is allowed."""


class CommandOutline(TypedDict):
    """A command, for the list in ``semlens --help`` and for completion."""

    summary: str
    options: list[OptionOutline]
    lens: NotRequired[str]
    """Name of the lens, for a command without code of its own."""
    panel: NotRequired[str]
    """Panel of ``semlens --help``, for such a command."""


@cache
def outlines() -> dict[str, CommandOutline]:
    """Return the outline of each command by name."""
    return json.loads(FILE.read_text("utf-8"))


def stand_in(outline: CommandOutline) -> Callable[..., None]:
    """Return a function that has a command's summary and options, and does nothing."""

    def command(**_: Any) -> None: ...

    command.__doc__ = outline["summary"]
    # one argument stands for all: the shell completes file names by itself
    arguments = Annotated[list[str] | None, typer.Argument()]
    parameters = [inspect.Parameter("arguments", KEYWORD, annotation=arguments, default=None)]
    for number, option in enumerate(outline["options"]):
        choices: Any = Literal[tuple(option["choices"])] if option["choices"] else str
        type_ = bool if option["flag"] else choices
        annotation = Annotated[type_ | None, typer.Option(*option["names"], help=option["help"])]
        parameters.append(
            inspect.Parameter(f"option{number}", KEYWORD, annotation=annotation, default=None)
        )
    return with_parameters(command, parameters)


def with_parameters(
    function: Callable[..., None], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """Give a function of keyword arguments the signature that typer reads its options from."""
    function.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function
