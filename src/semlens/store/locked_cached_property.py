"""Cached properties that are computed once across threads, and a shared pool of workers."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from typing import Any, TypeVar, overload

from threadpoolctl import ThreadpoolController

T = TypeVar("T")


class locked_cached_property(cached_property[T]):  # noqa: N801  # used as a decorator, like its base
    """A ``cached_property`` that threads compute only once, with one lock per object."""

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None
    ) -> locked_cached_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(
        self, instance: object | None, owner: type[Any] | None = None
    ) -> locked_cached_property[T] | T:
        """Return the value; once cached, this method is no longer called."""
        if instance is None:
            return self
        with vars(instance).setdefault("_property_lock", threading.RLock()):
            return super().__get__(instance, owner)


MAX_WORKERS = 8


@cache
def workers() -> ThreadPoolExecutor:
    """Return a pool of threads, one per core, for work that needs much temporary memory.

    Allocators and matrix libraries keep buffers for every thread that used them. With a server's
    hundred threads these would be gigabytes, so such work is submitted to this pool. Its jobs must
    not wait for other jobs of the pool.
    """
    count = min(MAX_WORKERS, os.cpu_count() or 1)
    return ThreadPoolExecutor(count, "concept-store", initializer=_limit_openmp)


def _limit_openmp() -> None:
    """Keep OpenMP from starting more threads: each core has a worker already, and threads spin."""
    ThreadpoolController().limit(limits=1, user_api="openmp")
