"""Memory that batches free is kept for the next batch.

By default, glibc returns large arrays to the system when they are freed, and each batch waits for
the system to fill the same pages with zeros again, in some networks for most of a forward pass.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_DYNAMIC_LIMIT = 32 * 2**20
"""The threshold for returning arrays to which glibc itself rises, on 64-bit systems."""


def keep_freed_memory() -> None:
    """Keep the memory of freed arrays in this process; without glibc, do nothing."""
    if libc := _glibc():
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep the memory of freed arrays within the block; return it to the system after it."""
    keep_freed_memory()
    try:
        yield
    finally:
        if libc := _glibc():
            libc.mallopt(_MMAP_MAX, 65536)  # the defaults
            libc.mallopt(_MMAP_THRESHOLD, _DYNAMIC_LIMIT)
            libc.mallopt(_TRIM_THRESHOLD, 2 * _DYNAMIC_LIMIT)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
