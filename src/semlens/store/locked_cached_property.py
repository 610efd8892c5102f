"""What many threads share: properties that are computed once, and a few workers."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any, TypeVar, overload

from threadpoolctl import ThreadpoolController

T = TypeVar("T")


class locked_cached_property(cached_property[T]):  # noqa: N801  # used as a decorator, like its base
    """A ``cached_property`` that two threads never compute twice; each object has one lock."""

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None
    ) -> locked_cached_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(
        self, instance: object | None, owner: type[Any] | None = None
    ) -> locked_cached_property[T] | T:
        """Return the value; reading it again does not come here."""
        if instance is None:
            return self
        with vars(instance).setdefault("_making", threading.RLock()):
            return super().__get__(instance, owner)


MOST = 8


@cache
def workers() -> ThreadPoolExecutor:
    """Return threads, one per core, for what takes much memory for a moment.

    Allocators and matrix libraries keep buffers for every thread that ever used them. A server's
    hundred threads would keep gigabytes, so they hand such work to these. What these run must not
    wait for them.
    """
    count = min(MOST, os.cpu_count() or 1)
    return ThreadPoolExecutor(count, "concept-store", initializer=_alone)


def _alone() -> None:
    """Keep OpenMP from starting further threads: each core has its worker, and they spin."""
    ThreadpoolController().limit(limits=1, user_api="openmp")
