"""Write the tables of options in docs/cli.md from the commands themselves.

    python docs/cli_reference.py

A table's options, defaults and texts are those of ``semlens COMMAND --help``, which come from the
settings of the questions; what stands around the tables is written by hand.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

from typer.models import OptionInfo

from semlens.cli.app import function_of, panels

PAGE = Path(__file__).with_name("cli.md")
HEAD = "| option | default | meaning |\n|---|---|---|\n"
WORDS = {int: "N", float: "X", str: "TEXT", Path: "FILE"}


def commands() -> dict[str, Any]:
    """Return the functions of the commands by name."""
    return {name: function_of(name) for name in panels()}


def table(command: Any) -> str:
    """Return the table of a command's options."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return HEAD + "".join(_row(parameter) for parameter in parameters)


def _row(parameter: inspect.Parameter) -> str:
    """Return an option's line; none for an argument, or what the parser passes itself."""
    option = read_option(parameter)
    if option is None:
        return ""
    info, kind, names = option
    value = "" if kind is bool else f" {_value(kind, info)}"
    shown = " / ".join(f"`{name}{value}`" for name in "/".join(names).split("/"))
    default = getattr(parameter.default, "value", parameter.default)
    if default is inspect.Parameter.empty:
        said = "required"
    elif default is None:
        said = ""
    elif kind is bool:
        said = "on" if default else "off"
    else:
        said = f"`{default}`"
    text = " ".join(str(info.help or "").split()).replace("|", "\\|")
    return f"| {shown} | {said} | {text} |\n".replace("|  |", "| |")


def read_option(parameter: inspect.Parameter) -> tuple[OptionInfo, Any, list[str]] | None:
    """Return what typer knows of an option, what one value is, and its names; else None.

    The two names of a switch are one: ``--save/--no-save``.
    """
    metadata = getattr(parameter.annotation, "__metadata__", ())
    info = next((m for m in metadata if isinstance(m, OptionInfo)), None)
    if info is None:
        return None
    kind = _kind(parameter.annotation.__origin__)
    names = [str(d) for d in (info.default, *(info.param_decls or ())) if str(d).startswith("--")]
    option = parameter.name.replace("_", "-")
    if not names:
        names = [f"--{option}/--no-{option}" if kind is bool else f"--{option}"]
    return info, kind, names


def choices(kind: Any, info: OptionInfo) -> list[str]:
    """Return the values that an option takes; empty if they cannot be listed."""
    if typing.get_origin(kind) is Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    if hasattr(kind, "__members__"):
        return [choice.value for choice in kind]
    return info.metavar.split("|") if info.metavar and "|" in info.metavar else []


def _kind(annotation: Any) -> Any:
    """Return what one value is, of an option that may be left out or given again."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation


def _value(kind: Any, info: OptionInfo) -> str:
    """Return what stands for an option's value."""
    if typing.get_origin(kind) is Literal:
        return "\\|".join(map(str, typing.get_args(kind)))
    if hasattr(kind, "__members__"):
        return "\\|".join(choice.value for choice in kind)
    low = f" from {info.min:g}" if info.min is not None else ""
    return WORDS.get(kind, "TEXT") + low + (f" to {info.max:g}" if info.max is not None else "")


def page(text: str) -> str:
    """Return the page with the table of each command's section as it has to be."""
    for name, command in commands().items():
        pattern = rf"(^## semlens {name}\n(?:(?!^## ).*\n)*?)\| option \|.*\n(?:\|.*\n)+"
        found = re.search(pattern, text, re.M)
        if found is None:
            raise SystemExit(f"docs/cli.md needs a section with a table for 'semlens {name}'")
        text = text[: found.start()] + found[1] + table(command) + text[found.end() :]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
