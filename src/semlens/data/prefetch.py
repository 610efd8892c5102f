"""Ordered map over threads with a bounded look-ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Return the number of decoding threads: one per core, at most eight."""
    return min(8, os.cpu_count() or 1)


def prefetch(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int = 64
) -> Iterator[R]:
    """Yield ``function(item)`` in order, at most ``ahead`` items in advance.

    Threads rather than processes: Pillow and torchvision release the GIL while they decode and
    resize, and the user's dataset and preprocessing need not be picklable. With ``workers=0``
    everything runs in the caller's thread.
    """
    if workers <= 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="semlens") as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(copy_context().run, function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
