"""Small pictures of a component for a page: strips of crops, single crops, whole images."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image, ImageDraw, ImageOps

from semlens.draw.mask import masked, unpacked
from semlens.errors import DataError, ImageError, LayerError, StaleError
from semlens.store.examples import Example
from semlens.store.reader import Database
from semlens.types import Box

View = Literal["crop", "masked", "whole"]
THUMBNAIL, CROP, WHOLE = 96, 224, 480
"""Longer side of a stored thumbnail, a crop and a whole image at most, in pixels."""
GAP = 2
"""Transparent pixels between the crops of a strip."""


def strip(database: Database, row: int, count: int = 4, size: int = THUMBNAIL) -> bytes:
    """Return a component's strongest examples side by side as one WebP.

    Each fills a square: what sticks out of it is cut off. There may be fewer than ``count``.

    Parameters
    ----------
    size
        Side of a square in pixels.

    Raises
    ------
    LayerError
        If the component has no examples.
    DataError, StaleError
        If there are no thumbnails, and the images are not there or have changed.
    """
    examples = database.examples_of(row, count)
    if not examples:
        raise _no_example(database, row, 0, 0)
    picture = Image.new("RGBA", (len(examples) * size, size))
    for place, example in enumerate(examples):
        stored = database.thumbnail(example.crop)
        crop = _decoded(stored) if stored else _cut(database, example, size)
        square = (size - (GAP if place < len(examples) - 1 else 0), size)
        fitted = ImageOps.fit(crop, square, Image.Resampling.BILINEAR)
        picture.paste(fitted, (place * size, 0))
    return _webp(picture)


def crop_picture(database: Database, row: int, place: int, view: View = "crop") -> bytes:
    """Return one example of a component as a WebP.

    Parameters
    ----------
    place
        0 is the strongest example.
    view
        ``crop``, cut anew from the original where that is there and shows more than the
        stored thumbnail; ``masked``, the same darkened where the component does not react
        (paper, H.1); ``whole``, the original with the crop's box.

    Raises
    ------
    LayerError
        If the component has no such example.
    DataError, StaleError
        If the original is needed, and is not there or has changed.
    """
    examples = database.examples_of(row)
    if not 0 <= place < len(examples):
        raise _no_example(database, row, place, len(examples))
    example = examples[place]
    if view == "whole":
        return _webp(_whole(database.images.read(example.sample), example.box))
    crop = _crop(database, example)
    if isinstance(crop, bytes) and view == "crop":
        return crop
    picture = crop if isinstance(crop, Image.Image) else _decoded(crop)
    if view == "masked" and example.mask is not None:
        picture = masked(picture, unpacked(example.mask), threshold=0.5)
    return _webp(picture)


def _crop(database: Database, example: Example) -> Image.Image | bytes:
    """Return a crop cut anew, or the stored thumbnail where that shows as much or is all left."""
    stored = database.thumbnail(example.crop)
    box = example.box
    if stored is not None and max(box.right - box.left, box.bottom - box.top) <= THUMBNAIL:
        return stored
    try:
        return _cut(database, example, CROP)
    except (DataError, ImageError, StaleError):
        if stored is None:
            raise
        return stored


def _decoded(webp: bytes) -> Image.Image:
    return Image.open(io.BytesIO(webp)).convert("RGB")


def _cut(database: Database, example: Example, size: int) -> Image.Image:
    crop = database.images.read(example.sample).crop(example.box.as_tuple())
    crop.thumbnail((size, size), Image.Resampling.BICUBIC)
    return crop


def _whole(original: Image.Image, box: Box) -> Image.Image:
    """Draw the box as a white line on a black one: it is seen on every picture."""
    scale = min(1.0, WHOLE / max(original.size))
    size = (max(1, round(original.width * scale)), max(1, round(original.height * scale)))
    picture = original.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    left, top, right, bottom = (round(side * scale) for side in box.as_tuple())
    frame = (left, top, max(left, right - 1), max(top, bottom - 1))
    draw = ImageDraw.Draw(picture)
    draw.rectangle(frame, outline="black", width=4)
    draw.rectangle(frame, outline="white", width=2)
    return picture


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80, method=0)
    return buffer.getvalue()


def _no_example(database: Database, row: int, place: int, known: int) -> LayerError:
    return LayerError(
        f"Component '{database.component(row)}' has no example {place}.",
        f"It has {known}, counted from 0." if known else "No image activates it.",
        "Choose another one.",
    )
