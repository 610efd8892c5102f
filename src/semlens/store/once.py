"""Properties that are computed once, however many threads ask."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any, TypeVar, overload

T = TypeVar("T")


class once(cached_property[T]):  # noqa: N801  # used as a decorator, like its base
    """A ``cached_property`` that two threads never compute twice; each object has one lock."""

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> once[T]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> once[T] | T:
        """Return the value; reading it again does not come here."""
        if instance is None:
            return self
        with vars(instance).setdefault("_making", threading.RLock()):
            return super().__get__(instance, owner)
