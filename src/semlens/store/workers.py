"""A few threads for what takes much memory for a moment.

Allocators and matrix libraries keep buffers for every thread that ever used them. A server's
hundred threads would keep gigabytes, so they hand such work to these.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController

MOST = 8


@cache
def workers() -> ThreadPoolExecutor:
    """Return the threads: one per core. What they run must not wait for them."""
    count = min(MOST, os.cpu_count() or 1)
    return ThreadPoolExecutor(count, "concept-store", initializer=_alone)


def _alone() -> None:
    """Keep OpenMP from starting further threads: each core has its worker, and they spin."""
    ThreadpoolController().limit(limits=1, user_api="openmp")
