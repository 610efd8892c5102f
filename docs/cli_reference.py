"""Generate the tables of options in docs/cli.md from the commands.

    python docs/cli_reference.py

Options, defaults and texts are those of ``semlens COMMAND --help``, which come from the settings of
the questions. The text around the tables is written by hand.
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
VALUE_NAMES = {int: "N", float: "X", str: "TEXT", Path: "FILE"}


def commands() -> dict[str, Any]:
    """Return the functions of the commands by name."""
    return {name: function_of(name) for name in panels()}


def table(command: Any) -> str:
    """Return the table of a command's options."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return HEAD + "".join(_row(parameter) for parameter in parameters)


def _row(parameter: inspect.Parameter) -> str:
    """Return the row of an option; empty for arguments and parameters set by the parser."""
    option = read_option(parameter)
    if option is None:
        return ""
    info, type_, names = option
    value = "" if type_ is bool else f" {_placeholder(type_, info)}"
    shown = " / ".join(f"`{name}{value}`" for name in "/".join(names).split("/"))
    default = getattr(parameter.default, "value", parameter.default)
    if default is inspect.Parameter.empty:
        default_text = "required"
    elif default is None:
        default_text = ""
    elif type_ is bool:
        default_text = "on" if default else "off"
    else:
        default_text = f"`{default}`"
    text = " ".join(str(info.help or "").split()).replace("|", "\\|")
    return f"| {shown} | {default_text} | {text} |\n".replace("|  |", "| |")


def read_option(parameter: inspect.Parameter) -> tuple[OptionInfo, Any, list[str]] | None:
    """Return typer's information on an option, the type of one value, and its names; else None.

    The two names of a switch are joined: ``--save/--no-save``.
    """
    metadata = getattr(parameter.annotation, "__metadata__", ())
    info = next((m for m in metadata if isinstance(m, OptionInfo)), None)
    if info is None:
        return None
    type_ = _value_type(parameter.annotation.__origin__)
    names = [str(d) for d in (info.default, *(info.param_decls or ())) if str(d).startswith("--")]
    option = parameter.name.replace("_", "-")
    if not names:
        names = [f"--{option}/--no-{option}" if type_ is bool else f"--{option}"]
    return info, type_, names


def choices(type_: Any, info: OptionInfo) -> list[str]:
    """Return the values that an option takes; empty if they cannot be listed."""
    if typing.get_origin(type_) is Literal:
        return [str(choice) for choice in typing.get_args(type_)]
    if hasattr(type_, "__members__"):
        return [choice.value for choice in type_]
    return info.metavar.split("|") if info.metavar and "|" in info.metavar else []


def _value_type(annotation: Any) -> Any:
    """Return the type of one value of an optional or repeatable option."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(
            member for member in typing.get_args(annotation) if member is not type(None)
        )
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation


def _placeholder(type_: Any, info: OptionInfo) -> str:
    """Return the placeholder of an option's value."""
    if typing.get_origin(type_) is Literal:
        return "\\|".join(map(str, typing.get_args(type_)))
    if hasattr(type_, "__members__"):
        return "\\|".join(choice.value for choice in type_)
    low = f" from {info.min:g}" if info.min is not None else ""
    return (
        VALUE_NAMES.get(type_, "TEXT") + low + (f" to {info.max:g}" if info.max is not None else "")
    )


def page(text: str) -> str:
    """Return the page with current tables in the sections of all commands, in their order."""
    head, *sections = re.split(r"^(?=## semlens [a-z])", text, flags=re.M)
    order = list(commands())
    sections.sort(key=lambda section: order.index(section.partition("\n")[0][len("## semlens ") :]))
    text = "".join([head, *(section.rstrip() + "\n\n" for section in sections)]).rstrip() + "\n"
    for name, command in commands().items():
        pattern = rf"(^## semlens {name}\n(?:(?!^## ).*\n)*?)\| option \|.*\n(?:\|.*\n)+"
        match = re.search(pattern, text, re.M)
        if match is None:
            raise SystemExit(f"docs/cli.md has no section with a table for 'semlens {name}'")
        text = text[: match.start()] + match[1] + table(command) + text[match.end() :]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
