"""Small pictures of a component for a page: strips of crops, single crops, whole images."""

from __future__ import annotations

from typing import Literal

from PIL import Image, ImageDraw, ImageOps

from semlens.draw.mask import masked, unpacked
from semlens.draw.pictures import decoded, encoded
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
        crop = small_crop(database, example, size)
        square = (size - (GAP if place < len(examples) - 1 else 0), size)
        fitted = ImageOps.fit(crop, square, Image.Resampling.BILINEAR)
        picture.paste(fitted, (place * size, 0))
    return encoded(picture, method=0)


def small_crop(
    database: Database,
    example: Example,
    size: int = THUMBNAIL,
    *,
    mask: bool = False,
) -> Image.Image:
    """Return an example's thumbnail, or where there is none its crop from the original.

    Parameters
    ----------
    size
        Longer side of a crop at most, in pixels.
    mask
        Whether to darken what the component does not react to.

    Raises
    ------
    DataError, StaleError
        If there is no thumbnail, and the original is not there or has changed.
    """
    stored = database.thumbnail(example.crop)
    crop = _cut(database, example, size) if stored is None else decoded(stored)
    return _darkened(crop, example) if mask else crop


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
        picture = _whole(database.images.read(example.sample), example.box)
    else:
        crop = _crop(database, example)
        if isinstance(crop, bytes) and view == "crop":
            return crop
        picture = decoded(crop) if isinstance(crop, bytes) else crop
        if view == "masked":
            picture = _darkened(picture, example)
    return encoded(picture, method=0)


def _crop(database: Database, example: Example) -> Image.Image | bytes:
    """Return a crop cut anew, or the stored thumbnail where that shows as much or is all left."""
    stored = database.thumbnail(example.crop)
    left, top, right, bottom = example.box.as_tuple()
    if stored is not None and max(right - left, bottom - top) <= THUMBNAIL:
        return stored
    try:
        return _cut(database, example, CROP)
    except (DataError, ImageError, StaleError):
        if stored is None:
            raise
        return stored


def _cut(database: Database, example: Example, size: int) -> Image.Image:
    crop = database.images.read(example.sample).crop(example.box.as_tuple())
    crop.thumbnail((size, size))
    return crop


def _darkened(crop: Image.Image, example: Example) -> Image.Image:
    if example.mask is None:
        return crop
    return masked(crop, unpacked(example.mask), threshold=0.5)


def _whole(original: Image.Image, box: Box) -> Image.Image:
    """Draw the box as a white line on a black one: it is seen on every picture."""
    picture = original.copy()
    picture.thumbnail((WHOLE, WHOLE))
    scale = max(picture.size) / max(original.size)
    left, top, right, bottom = (round(side * scale) for side in box.as_tuple())
    frame = (left, top, max(left, right - 1), max(top, bottom - 1))
    draw = ImageDraw.Draw(picture)
    for colour, width in (("black", 4), ("white", 2)):
        draw.rectangle(frame, outline=colour, width=width)
    return picture


def _no_example(database: Database, row: int, place: int, known: int) -> LayerError:
    return LayerError(
        f"Component '{database.component(row)}' has no example {place}.",
        f"It has {known}, counted from 0." if known else "No image activates it.",
        "Choose another one.",
    )
