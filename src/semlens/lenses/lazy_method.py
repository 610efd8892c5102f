"""Methods that are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyMethod:
    """A function of another module as a method of the same name.

    Opening a database does not import all questions, which takes seconds.

    Parameters
    ----------
    module
        Name of the module.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __set_name__(self, owner: type[Any], name: str) -> None:
        """Take the function's name."""
        self._name = name

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Any:
        """Return the bound method, or the function for the class itself."""
        return getattr(import_module(self._module), self._name).__get__(instance, owner)
