"""Reading images while telling of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from PIL import Image

from semlens.models.forward import Reader

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""


def told(read: Reader, what: str, total: int, progress: Progress) -> Reader:
    """Return a reader that tells of every image; it may be called from several threads."""
    done = itertools.count(1)

    def reading(sample: int) -> Image.Image:
        progress(what, next(done), total)
        return read(sample)

    return reading
