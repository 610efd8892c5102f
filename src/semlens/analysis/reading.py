"""Reading images: those of the database, while telling of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from PIL import Image

from semlens.data.images import Images
from semlens.errors import DataError
from semlens.models.forward import Reader
from semlens.store.reader import Database

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is done, and of how much."""


def check_samples(database: Database, images: Images) -> None:
    """Refuse images whose numbers are not those of the database's samples.

    Raises
    ------
    DataError
        If they are others, or in another order.
    """
    if list(images.ids) != database.samples["path"].tolist():
        raise DataError(
            f"'{images.spec}' holds {len(images)} samples, not those of the database.",
            "Expected the images that the database was built from.",
            "Load them with db.load_images().",
        )


def told(read: Reader, what: str, total: int, progress: Progress) -> Reader:
    """Return a reader that tells of every image; it may be called from several threads."""
    done = itertools.count(1)

    def reading(sample: int) -> Image.Image:
        progress(what, next(done), total)
        return read(sample)

    return reading
