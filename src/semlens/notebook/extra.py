"""The packages of the extra ``notebook``."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

from semlens.errors import ServeError


def check_extra() -> None:
    """Check that widgets can be made.

    Raises
    ------
    ServeError
        If anywidget is not installed.
    """
    if find_spec("anywidget") is None:
        raise ServeError(
            "Widgets need the package 'anywidget'.",
            "It is not installed.",
            "Run: pip install 'semlens[notebook]' and restart the kernel.",
        )


def module_source(name: str) -> str:
    """Return the ECMAScript module of a widget, with what the widgets share before it."""
    folder = files("semlens.notebook").joinpath("javascript")
    return "\n".join(folder.joinpath(file).read_text("utf-8") for file in ("shared.js", name))


def style_source() -> str:
    """Return the style sheet of the widgets."""
    return files("semlens.notebook").joinpath("javascript", "widgets.css").read_text("utf-8")
