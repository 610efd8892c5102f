"""Lenses: questions to a database, each a function that is declared once and found by name.

A lens is a function whose first parameter is a database (``database``) or several
(``databases``). What it takes is declared as annotated settings; what it returns is a
:class:`semlens.lenses.result.Result`. The method of a database, the command, the HTTP route and its
page, the agents' tool and the section of a report follow from that declaration. Packages register
lenses as entry points of the group ``semlens.lenses``; those of semlens do the same.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Literal, ParamSpec, TypeVar

from semlens.errors import LensError, nearest
from semlens.plug_ins import LENSES, owner, plug_ins
from semlens.progress import progress_bars
from semlens.settings import settings_of

P = ParamSpec("P")
R = TypeVar("R")
Source = Literal["model", "images", "embedder"]
"""A source of a database that a lens may load."""
Groups = Literal["Build", "Search", "Describe", "Explain", "Compare", "Audit", "Correct", "Study"]


@dataclass(frozen=True)
class Lens:
    """What views need to know of a lens besides its settings.

    Parameters
    ----------
    needs
        Sources of the database that it may load.
    group
        The heading under which views list it; None for a step of another lens.
    command
        Words of its command, such as ``labels evaluate``; empty if it has none.
    example
        A call of that command, for its help.
    report
        Title of its section in a report; empty if it has none.
    about
        The parameter that takes the class of a report.
    kept
        Returns what a database keeps of earlier answers, or None; a report shows it without
        running the model.
    agents
        Whether agents get it as a tool.
    local
        Whether only the machine of the database may ask it: it writes files or trains.
    """

    needs: tuple[Source, ...] = ()
    group: Groups | None = None
    command: str = ""
    example: str = ""
    report: str = ""
    about: str = "target"
    kept: Callable[[Any], Any] | None = None
    agents: bool = False
    local: bool = False


def lens(
    *needs: Source,
    group: Groups | None = None,
    command: str | None = None,
    example: str = "",
    report: str = "",
    about: str = "target",
    kept: Callable[[Any], Any] | None = None,
    agents: bool = False,
    local: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a lens: its arguments are checked and read, and its progress is shown.

    Parameters
    ----------
    needs, group, example, report, about, kept, agents, local
        As in :class:`Lens`.
    command
        Words of the command. None for the name of the function with dashes, if it has a group.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        first = next(iter(signature.parameters), "")

        @functools.wraps(function)
        def ask(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            for name, setting in settings_of(function).items():
                if name in bound.arguments:
                    setting.check(function.__name__, bound.arguments[name])
            with progress_bars():
                for name, setting in settings_of(function).items():
                    if setting.reads is not None:
                        given = bound.arguments.get(name, setting.default)
                        bound.arguments[name] = setting.reads(bound.arguments[first], given)
                return function(*bound.args, **bound.kwargs)

        words = function.__name__.replace("_", "-") if command is None and group else command or ""
        vars(ask)["lens"] = Lens(needs, group, words, example, report, about, kept, agents, local)
        return ask

    return decorate


def lens_of(function: Callable[..., Any]) -> Lens | None:
    """Return what a function declares as a lens; None if it is none."""
    declared = getattr(function, "lens", None)
    return declared if isinstance(declared, Lens) else None


def group_of(function: Callable[..., Any]) -> str:
    """Return the heading under which views list a lens."""
    declared = lens_of(function)
    return (declared and declared.group) or ""


def takes_several(function: Callable[..., Any]) -> bool:
    """Return whether a lens is about several databases."""
    return next(iter(inspect.signature(function).parameters), "") == "databases"


def result_of(function: Callable[..., Any]) -> Any:
    """Return the class of a lens's result."""
    return typing.get_type_hints(inspect.unwrap(function)).get("return")


@functools.cache
def registered() -> Mapping[str, EntryPoint]:
    """Return the entry points of all lenses by name; nothing is imported."""
    return {point.name: point for point in reversed(plug_ins(LENSES))}


@functools.cache
def foreign() -> Mapping[str, Callable[..., Any] | LensError]:
    """Import the lenses of other packages, by the words of their command; an error if it fails."""
    found: dict[str, Callable[..., Any] | LensError] = {}
    for name, point in registered().items():
        if point.value.startswith("semlens."):
            continue
        try:
            function = load_lens(name)
        except LensError as error:
            found[name.replace("_", "-")] = error
        else:
            declared = lens_of(function)
            if declared is not None and declared.command:
                found[declared.command] = function
    return found


def load_lens(name: str) -> Callable[..., Any]:
    """Import a lens by its name.

    Raises
    ------
    LensError
        If there is no such lens, several packages provide it, or its package cannot be imported.
    """
    if name not in registered():
        raise LensError(
            f"There is no lens '{name}'.",
            f"The nearest are {nearest(name, registered())}.",
            "Correct the name, or install the package that provides it.",
        )
    owners = {owner(point) for point in plug_ins(LENSES) if point.name == name}
    if len(owners) > 1:
        raise LensError(
            f"The lens '{name}' is provided by {' and '.join(sorted(owners))}.",
            "Expected one provider of each name.",
            "Uninstall one of them.",
        )
    point = registered()[name]
    try:
        function = point.load()
    except Exception as failure:  # the code of another package may raise anything
        raise LensError(
            f"The lens '{name}' of '{owner(point)}' cannot be imported "
            f"({type(failure).__name__}: {failure}).",
            f"Expected {point.value} to be a function under @lens.",
            "Update, repair or uninstall the package.",
        ) from failure
    if lens_of(function) is None:
        raise LensError(
            f"The lens '{name}' of '{owner(point)}' is {point.value}, which is no lens.",
            "Expected a function under @lens.",
            "Update, repair or uninstall the package.",
        )
    return function
