"""Pictures of single examples: crops in their surroundings, whole images, and heatmaps on them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from semlens.data.array_picture import in_slice
from semlens.draw.crop_window import box_within, cut_window, outline, window_around
from semlens.draw.encode_images import decode_image, encode_webp
from semlens.draw.heatmap_mask import apply_mask, overlay, resize_heatmap, unpack_mask
from semlens.errors import DataError, ImageError, LayerError, StaleError
from semlens.store.examples import Example
from semlens.store.reader import Database
from semlens.types import Box, Thumbnail

View = Literal["crop", "whole"]
CROP, WHOLE = 256, 480
"""Largest side of a crop with its surroundings, and of a whole image, in pixels."""
Shown = tuple[Image.Image, Box]
"""A square picture, and the box of a crop in it."""


def example_picture(
    database: Database, example: Example, side: int, *, mask: bool = False
) -> Image.Image:
    """Draw an example as a square: its crop, outlined, with some of its surroundings.

    It is made from the thumbnail, or from the original image if there is none.

    Parameters
    ----------
    side
        Width and height in pixels.
    mask
        Whether to darken areas that the component does not respond to.

    Raises
    ------
    DataError, StaleError
        If there is no thumbnail, and the original is missing or has changed.
    """
    stored = database.thumbnail(example.crop)
    shown = _from_original(database, example, side) if stored is None else _decoded(stored)
    return _finished(_resized(shown, side), example, mask)


def example_webp(database: Database, example: Example) -> bytes | None:
    """Return the outlined thumbnail of an example as a WebP; None without thumbnails."""
    stored = database.thumbnail(example.crop)
    return None if stored is None else encode_webp(outline(*_decoded(stored)), method=0)


def example_crop(database: Database, example: Example) -> Image.Image:
    """Return the crop alone: from the thumbnail, or from the original image if there is none.

    Raises
    ------
    DataError, StaleError
        If there is no thumbnail, and the original is missing or has changed.
    """
    stored = database.thumbnail(example.crop)
    if stored is None:
        return database.images.read(example.sample).crop(example.box.as_tuple())
    return decode_image(stored.webp).crop(stored.box.as_tuple())


def crop_picture(database: Database, row: int, place: int, view: View = "crop") -> bytes:
    """Return one example of a component as a WebP.

    Parameters
    ----------
    place
        Position of the example; 0 is the strongest.
    view
        ``crop``: the crop, outlined, in its surroundings; from the original if it is available and
        has more detail than the stored thumbnail. ``whole``: the original with the crop's box.

    Raises
    ------
    LayerError
        If the component has no such example.
    DataError, StaleError
        If the original is needed, and is missing or has changed.
    """
    examples = database.examples_of(row)
    if not 0 <= place < len(examples):
        raise no_example(database, row, place, len(examples))
    example = examples[place]
    if view == "whole":
        return encode_webp(_whole(database.images.read(example.sample), example.box), method=0)
    return encode_webp(_finished(_detailed(database, example), example, mask=False), method=0)


def heatmap_picture(
    database: Database, example: Example, heat: Shaped[np.ndarray, "h w"] | None
) -> bytes:
    """Return the whole image of an example with a heatmap over it and its box, as a WebP.

    Parameters
    ----------
    heat
        Covers the whole image; None for the stored display mask.

    Raises
    ------
    DataError, StaleError
        If the image is missing or has changed.
    """
    original = database.images.read(example.sample)
    picture = ImageOps.contain(original, (WHOLE, WHOLE))  # enlarged, so that heat is smooth
    cells = stored_heat(example, original.size) if heat is None else heat
    return encode_webp(_outlined(overlay(picture, cells), example.box, original.size), method=0)


def stored_heat(example: Example, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Return the display mask of an example over the whole image; its box if it has none.

    Parameters
    ----------
    size
        Width and height of the image.
    """
    heat, box = np.zeros((size[1], size[0]), np.uint8), example.box
    inside = heat[box.top : box.bottom, box.left : box.right]
    cells = np.ones((1, 1)) if example.mask is None else unpack_mask(example.mask)
    inside[:] = 255 * resize_heatmap(cells, (inside.shape[1], inside.shape[0]))
    return heat


def _detailed(database: Database, example: Example) -> Shown:
    """Show the crop as the original has it, or as the thumbnail if that has no less detail.

    The thumbnail is also the fallback if the original cannot be read.
    """
    stored = database.thumbnail(example.crop)
    if stored is not None and _longest(example.box) <= _longest(stored.box):
        return _decoded(stored)
    try:
        return _from_original(database, example, CROP)
    except (DataError, ImageError, StaleError):
        if stored is None:
            raise
        return _decoded(stored)


def _decoded(stored: Thumbnail) -> Shown:
    return decode_image(stored.webp), stored.box


def _from_original(database: Database, example: Example, side: int) -> Shown:
    image, box = in_slice(database.images.read(example.sample), example.box)
    window = window_around(box, image.size)
    side = min(side, window.right - window.left)
    return cut_window(image, window, side), box_within(box, window, side)


def _finished(shown: Shown, example: Example, mask: bool) -> Image.Image:
    """Darken what is outside the mask, if that is asked for, and outline the crop."""
    picture, box = shown
    if mask and example.mask is not None:
        size = box.right - box.left, box.bottom - box.top
        heat = np.zeros((picture.height, picture.width), np.float32)
        heat[box.top : box.bottom, box.left : box.right] = resize_heatmap(
            unpack_mask(example.mask), size
        )
        picture = apply_mask(picture, heat, threshold=0.5)
    return outline(picture, box)


def _whole(original: Image.Image, box: Box) -> Image.Image:
    """Outline the box on the original, at most ``WHOLE`` pixels wide and high."""
    picture = original.copy()
    picture.thumbnail((WHOLE, WHOLE))
    return _outlined(picture, box, original.size)


def _outlined(picture: Image.Image, box: Box, original: tuple[int, int]) -> Image.Image:
    """Outline a box of the original on a smaller copy."""
    scale = max(picture.size) / max(original)
    left, top, right, bottom = (round(side * scale) for side in box.as_tuple())
    return outline(picture, Box(left, top, max(right, left + 1), max(bottom, top + 1)), 2)


def _resized(shown: Shown, side: int) -> Shown:
    picture, box = shown
    resized = picture.resize((side, side), Image.Resampling.BICUBIC)
    return resized, box_within(box, Box(0, 0, *picture.size), side)


def _longest(box: Box) -> int:
    return max(box.right - box.left, box.bottom - box.top)


def no_example(database: Database, row: int, place: int, count: int) -> LayerError:
    """Return the error about an example that a component does not have."""
    return LayerError(
        f"Component '{database.component(row)}' has no example {place}.",
        f"It has {count}, counted from 0." if count else "No image activates it.",
        "Choose another example or component.",
    )
