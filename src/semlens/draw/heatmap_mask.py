"""Heatmaps on images: display masks, overlays, and projection onto the original image."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image
from scipy import ndimage

from semlens.draw.palette import AGAINST, FOR, rgb
from semlens.models.preprocess_geometry import AxisMap, Geometry
from semlens.relevance.heatmap_boxes import MASK_CELLS
from semlens.types import Box

PALE = 0.55
"""Share of white where a highlighted image is pale."""


def apply_mask(
    image: Image.Image,
    heat: Shaped[np.ndarray, "h w"],
    threshold: float = 0.02,
    opacity: float = 0.4,
) -> Image.Image:
    """Darken an image where a heatmap is below a share of its maximum (paper, H.1).

    Parameters
    ----------
    image
        RGB, of any size.
    heat
        Covers the same area as the image; already blurred. It is resized to the image.
        Without a positive value nothing is darkened.
    threshold
        Share of the maximum.
    opacity
        Opacity of the black on the darkened area.
    """
    values = resize_heatmap(heat, image.size)
    if not values.max() > 0:
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGB"), np.float32)
    below = (values < threshold * values.max())[:, :, None]
    return Image.fromarray(np.where(below, pixels * (1 - opacity), pixels).round().astype(np.uint8))


def highlight(
    image: Image.Image, heat: Shaped[np.ndarray, "h w"], threshold: float, colour: str
) -> Image.Image:
    """Show an image in its colours where a heatmap is high, outlined, and pale elsewhere.

    Parameters
    ----------
    heat
        Covers the same area as the image; it is resized to the image. Without a positive value
        the image is returned as it is.
    threshold
        Value from which on it is high.
    colour
        Of the outline, ``#rrggbb``.
    """
    values = resize_heatmap(heat, image.size)
    if not values.max() > 0:
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGB"), np.float32)
    high = values >= threshold
    inner = np.asarray(ndimage.binary_erosion(high, iterations=2, border_value=1), bool)
    edge = high & ~inner
    pale = 255 * PALE + (1 - PALE) * pixels.mean(2, keepdims=True)
    shown = np.where(high[:, :, None], pixels, pale)
    shown[edge] = rgb(colour)
    return Image.fromarray(shown.round().astype(np.uint8))


def unpack_mask(mask: bytes) -> Float32[np.ndarray, "16 16"]:
    """Unpack a display mask as stored in a database: 1 where the component responds."""
    cells = np.unpackbits(np.frombuffer(mask, np.uint8))
    return cells.reshape(MASK_CELLS, MASK_CELLS).astype(np.float32)


def overlay(image: Image.Image, heat: Shaped[np.ndarray, "h w"]) -> Image.Image:
    """Colour a greyscale image by a heatmap: blue for positive values, orange for negative ones.

    Parameters
    ----------
    heat
        Covers the same area as the image; it is resized to the image.
    """
    values = resize_heatmap(heat, image.size)
    grey = np.asarray(image.convert("L").convert("RGB"), np.float32)
    largest = np.percentile(np.abs(values), 99.5)  # the maximum may be a single outlier
    strength = np.clip(np.abs(values) / largest, 0, 1) if largest > 0 else np.zeros_like(values)
    alpha = 0.85 * strength[:, :, None] ** 0.75
    colour = np.where(
        (values > 0)[:, :, None], np.array(rgb(FOR), np.float32), np.array(rgb(AGAINST), np.float32)
    )
    mixed = (0.35 * 255 + 0.65 * grey) * (1 - alpha) + colour * alpha
    return Image.fromarray(mixed.round().astype(np.uint8))


def resize_heatmap(
    heat: Shaped[np.ndarray, "h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "height width"]:
    """Resize a heatmap to a width and height."""
    values = np.asarray(heat, np.float32)
    if values.shape == (size[1], size[0]):
        return values
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR), np.float32)


def project_heatmap(
    heat: Shaped[np.ndarray, "h w"],
    geometry: Geometry,
    box: Box,
    size: tuple[int, int],
) -> Float32[np.ndarray, "height width"]:
    """Project a heatmap of the model's input onto a box of the original image.

    Parameters
    ----------
    heat
        In input pixels.
    box
        The box, in original pixels.
    size
        Width and height of the result.

    Returns
    -------
    numpy.ndarray
        Zero outside the area that the model sees.
    """
    rows = _weights(geometry.vertical, (box.top, box.bottom), size[1], heat.shape[0])
    columns = _weights(geometry.horizontal, (box.left, box.right), size[0], heat.shape[1])
    return rows @ np.asarray(heat, np.float32) @ columns.T


def _weights(
    axis: AxisMap, span: tuple[int, int], size: int, cells: int
) -> Float32[np.ndarray, "size cells"]:
    """Return the matrix that linearly interpolates ``cells`` input pixels at ``size`` positions.

    The positions are the centres of ``size`` equal parts of a span of the original image.
    """
    weights = np.zeros((size, cells), np.float32)
    if axis.scale == 0:
        return weights + np.float32(1 / cells)
    position = span[0] + (np.arange(size) + 0.5) * (span[1] - span[0]) / size
    cell = (position - axis.offset) / axis.scale
    inside = np.flatnonzero((cell >= 0) & (cell <= cells))
    cell = np.clip(cell[inside] - 0.5, 0, cells - 1)
    low = np.floor(cell).astype(np.int64)
    high = np.minimum(low + 1, cells - 1)
    np.add.at(weights, (inside, low), 1 - (cell - low))
    np.add.at(weights, (inside, high), cell - low)
    return weights
