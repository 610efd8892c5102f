"""Heatmaps over pictures: a display mask that darkens, and an overlay that colours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image

from semlens.models.geometry import AxisMap, Geometry
from semlens.relevance.heatmap_boxes import MASK_CELLS
from semlens.types import Box

FOR, AGAINST = (214, 40, 40), (31, 96, 196)
"""Colours of what speaks for a class and against it: they differ for colour-blind eyes too."""


def masked(
    image: Image.Image,
    heat: Shaped[np.ndarray, "h w"],
    threshold: float = 0.02,
    opacity: float = 0.4,
) -> Image.Image:
    """Darken what is under a share of a heatmap's maximum (paper, H.1).

    Parameters
    ----------
    image
        RGB, of any size.
    heat
        Covers the same part of the world as the image; already blurred. It is resized to the
        image. Where it has no positive value nothing is darkened.
    threshold
        Share of the maximum.
    opacity
        Of the black that is put over the rest.
    """
    values = resized(heat, image.size)
    if not values.max() > 0:
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGB"), np.float32)
    dark = (values < threshold * values.max())[:, :, None]
    return Image.fromarray(np.where(dark, pixels * (1 - opacity), pixels).round().astype(np.uint8))


def unpacked(mask: bytes) -> Float32[np.ndarray, "16 16"]:
    """Return the display mask that a database keeps: 1 where the component reacts."""
    cells = np.unpackbits(np.frombuffer(mask, np.uint8))
    return cells.reshape(MASK_CELLS, MASK_CELLS).astype(np.float32)


def overlay(image: Image.Image, heat: Shaped[np.ndarray, "h w"]) -> Image.Image:
    """Colour a greyed image by a heatmap: red for positive values, blue for negative ones.

    Parameters
    ----------
    heat
        Covers the same part of the world as the image; resized to it.
    """
    values = resized(heat, image.size)
    grey = np.asarray(image.convert("L").convert("RGB"), np.float32)
    largest = np.percentile(np.abs(values), 99.5)  # a single glaring pixel pales all others
    strength = np.clip(np.abs(values) / largest, 0, 1) if largest > 0 else np.zeros_like(values)
    alpha = 0.85 * strength[:, :, None] ** 0.75
    colour = np.where(
        (values > 0)[:, :, None], np.array(FOR, np.float32), np.array(AGAINST, np.float32)
    )
    mixed = (0.35 * 255 + 0.65 * grey) * (1 - alpha) + colour * alpha
    return Image.fromarray(mixed.round().astype(np.uint8))


def resized(
    heat: Shaped[np.ndarray, "h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "height width"]:
    """Resize a heatmap to a picture's width and height."""
    values = np.asarray(heat, np.float32)
    if values.shape == (size[1], size[0]):
        return values
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), np.float32)


def onto(
    heat: Shaped[np.ndarray, "h w"],
    geometry: Geometry,
    box: Box,
    size: tuple[int, int],
) -> Float32[np.ndarray, "height width"]:
    """Read a heatmap of the model's input at the places of a part of the original image.

    Parameters
    ----------
    heat
        In input pixels.
    box
        The part, in original pixels.
    size
        Width and height of the result.

    Returns
    -------
    numpy.ndarray
        Zero where the model did not look.
    """
    rows = _weights(geometry.vertical, (box.top, box.bottom), size[1], heat.shape[0])
    columns = _weights(geometry.horizontal, (box.left, box.right), size[0], heat.shape[1])
    return rows @ np.asarray(heat, np.float32) @ columns.T


def _weights(
    axis: AxisMap, span: tuple[int, int], size: int, cells: int
) -> Float32[np.ndarray, "size cells"]:
    """Return the matrix that interpolates ``cells`` input pixels at ``size`` places of a span."""
    found = np.zeros((size, cells), np.float32)
    if axis.scale == 0:
        return found + np.float32(1 / cells)
    place = span[0] + (np.arange(size) + 0.5) * (span[1] - span[0]) / size
    at = (place - axis.offset) / axis.scale
    seen = np.flatnonzero((at >= 0) & (at <= cells))
    at = np.clip(at[seen] - 0.5, 0, cells - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, cells - 1)
    np.add.at(found, (seen, low), 1 - (at - low))
    np.add.at(found, (seen, high), at - low)
    return found
