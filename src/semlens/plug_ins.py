"""What installed packages provide under a name, through entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from semlens.errors import SemlensError

LABELLERS, EMBEDDERS, MODELS = "semlens.labellers", "semlens.embedders", "semlens.models"
LENSES = "semlens.lenses"
"""Groups of entry points."""


def plug_ins(group: str) -> list[EntryPoint]:
    """Return the entry points of a group."""
    return list(entry_points(group=group))


def owner(point: EntryPoint) -> str:
    """Return the name of the package that provides an entry point."""
    return point.dist.name if point.dist else point.value


def version(point: EntryPoint) -> str:
    """Return name and version of the package that provides an entry point."""
    return f"{owner(point)} {point.dist.version if point.dist else ''}".strip()


def find_plug_in(
    group: str, name: str, error: Callable[[str, str, str], SemlensError]
) -> EntryPoint | None:
    """Return the entry point of a name, or None; ``error`` is raised if several packages have it.

    Parameters
    ----------
    error
        Takes value, expectation and remedy.
    """
    points = [point for point in plug_ins(group) if point.name == name]
    if len(points) > 1:
        raise error(
            f"'{name}/' is provided by {', '.join(sorted(map(owner, points)))}.",
            "Expected one provider of each name.",
            "Uninstall the others.",
        )
    return points[0] if points else None


def call_plug_in(
    point: EntryPoint, error: Callable[[str, str, str], SemlensError], *args: Any, **options: Any
) -> Any:
    """Load an entry point and call it; ``error`` is raised for what its code raises.

    Errors of semlens pass, since they are meant for the user.
    """
    try:
        return point.load()(*args, **options)
    except SemlensError:
        raise
    except Exception as failure:  # the code of a plug-in may raise anything
        raise error(
            f"The plug-in '{owner(point)}' fails to load '{point.name}/' "
            f"({type(failure).__name__}: {failure}).",
            f"Expected {point.value} to take these arguments: {[*args, *options]}.",
            "Update, repair or uninstall the plug-in.",
        ) from failure
