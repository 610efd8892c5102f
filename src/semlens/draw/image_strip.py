"""Strips of whole images."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps

from semlens.draw.encode_images import encode_webp
from semlens.draw.example_sheet import CELL
from semlens.store.reader import Database


def image_strip(database: Database, samples: Sequence[int], size: int = CELL) -> bytes:
    """Return the images of samples side by side as one WebP, cut to squares of ``size`` pixels.

    Raises
    ------
    DataError, StaleError
        If an image is missing or has changed.
    """
    picture = Image.new("RGB", (len(samples) * size, size))
    for place, sample in enumerate(samples):
        square = ImageOps.fit(database.images.read(sample), (size, size))
        picture.paste(square, (place * size, 0))
    return encode_webp(picture)
