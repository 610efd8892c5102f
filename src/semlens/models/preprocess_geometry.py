"""Measuring where the model's input pixels lie in the original image, for any preprocessing.

A preprocessing function is a black box, so its geometry is measured: images whose brightness
encodes the horizontal or vertical position are preprocessed, and a straight line is fitted to the
result. This covers resizing, cropping, padding and mirroring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from semlens.errors import ModelError
from semlens.types import Box

LARGEST_SIDE = 8192
"""Pixels to which preprocessing may scale a side of an image."""
Preprocess = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class AxisMap:
    """Linear map along one axis: ``original = scale * input + offset``, in pixel edges."""

    scale: float
    offset: float

    def point(self, position: float) -> float:
        """Map a position, which may lie outside of the image."""
        return self.scale * position + self.offset

    def span(self, start: float, stop: float, size: int) -> tuple[int, int]:
        """Map an interval of input pixels to whole original pixels inside the image."""
        ends = sorted((self.scale * start + self.offset, self.scale * stop + self.offset))
        low = min(max(round(ends[0]), 0), size - 1)
        high = max(min(round(ends[1]), size), low + 1)
        return low, high


@dataclass(frozen=True)
class Geometry:
    """Position of the model's input in an original image of ``width`` x ``height`` pixels."""

    horizontal: AxisMap
    vertical: AxisMap
    width: int
    height: int

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Map a position in the input to the original, in pixels; padding lies outside of it."""
        return self.horizontal.point(x), self.vertical.point(y)

    def to_original(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Map a rectangle of input pixels (right and bottom exclusive) to original pixels."""
        x0, x1 = self.horizontal.span(left, right, self.width)
        y0, y1 = self.vertical.span(top, bottom, self.height)
        return Box(x0, y0, x1, y1)


def measure_geometry(preprocess: Preprocess, width: int, height: int) -> Geometry:
    """Measure the geometry of ``preprocess`` for images of one size.

    Raises
    ------
    ModelError
        If rows and columns of the input are not straight, evenly spaced lines of the image, the
        same in all channels (after a rotation or a warp, or if channels show several crops), so
        that boxes do not map to rectangles.
    """
    black = _preprocess_grey(preprocess, np.zeros((height, width), np.uint8))
    contrast = _preprocess_grey(preprocess, np.full((height, width), 255, np.uint8)) - black
    usable_contrast = np.where(_shows_image(contrast), contrast, np.nan)

    def normalised(grey: np.ndarray) -> np.ndarray:
        values = _preprocess_grey(preprocess, np.broadcast_to(grey, (height, width)))
        return (values - black) / usable_contrast

    return Geometry(
        _measure_axis(lambda ramp: np.concatenate([*normalised(ramp[None, :])]), width),
        _measure_axis(lambda ramp: np.hstack([*normalised(ramp[:, None])]).T, height),
        width,
        height,
    )


def _preprocess_grey(preprocess: Preprocess, grey: np.ndarray) -> np.ndarray:
    """Return the preprocessed picture of grey levels [h w], as [channels h w]."""
    image = Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))
    return preprocess(image).double().numpy()


def _shows_image(contrast: np.ndarray) -> np.ndarray:
    """Return where each channel shows the brightness of the image, not padding.

    Parameters
    ----------
    contrast
        What white minus black gives, [channels h w]; of either sign.

    Returns
    -------
    np.ndarray
        bool[channels h w]; all false for a channel that does not show brightness (a hue, a
        coordinate), or only at some positions (edges).
    """
    size = np.abs(contrast)
    largest = size.max(axis=(1, 2), keepdims=True)
    shown = (size > 0.5 * largest) & (largest > 0.05 * largest.max())
    area = shown.sum(axis=(1, 2), keepdims=True)
    return shown & (area > 0.5 * area.max())


def _measure_axis(send_ramp: Callable[[np.ndarray], np.ndarray], size: int) -> AxisMap:
    """Fit a line to ramps that are narrowed down to the visible part of a long side.

    ``send_ramp`` preprocesses a ramp of grey levels and returns brightness in [0, 1] as
    [others, along], NaN where the input does not show the image. Narrowing is needed because, with
    255 grey levels over a 4000-pixel side, a crop of 50 pixels would contain only three of them.
    """
    if size == 1:
        return AxisMap(0.0, 0.0)
    start, stop = 0.0, float(size)
    while True:
        step = (stop - start) / 255
        ramp = np.clip((np.arange(size) + 0.5 - start) / step, 0, 255)
        positions = send_ramp(np.round(ramp).astype(np.uint8)) * (stop - start) + start
        axis = _fit_axis(positions, start, stop, size)
        columns = np.flatnonzero(~np.isnan(positions).all(axis=0))
        visible = sorted(axis.scale * edge + axis.offset for edge in (columns[0], columns[-1] + 1))
        margin = 0.25 * (visible[1] - visible[0]) + 3 * step + 2
        low, high = max(visible[0] - margin, 0.0), min(visible[1] + margin, float(size))
        if high - low > 0.5 * (stop - start):
            return axis
        start, stop = low, high


def _fit_axis(positions: np.ndarray, start: float, stop: float, size: int) -> AxisMap:
    """Fit a line to original positions [others, along] between ``start`` and ``stop``."""
    visible = ~np.isnan(positions).all(axis=0)
    if visible.sum() >= 2:
        mean_position = np.nanmean(positions[:, visible], axis=0)
        centres = np.flatnonzero(visible) + 0.5
        scale, offset = np.polyfit(centres, mean_position, 1)
        for margin_steps in (2, 1, 0.5):  # the resampling filter clamps at the image's border
            margin = margin_steps * max(1.0, abs(scale))
            line = scale * centres + offset
            inner = (line > start + margin) & (line < stop - margin)
            if inner.sum() >= max(4, visible.sum() / 4):
                scale, offset = np.polyfit(centres[inner], mean_position[inner], 1)
                break
        tolerance = max(1.5, 0.01 * (stop - start)) + abs(scale)
        largest_error = np.nanmax(
            np.abs(positions[:, visible] - (scale * centres + offset)[None, :])
        )
        if abs(scale) * visible.sum() > 0.5 and largest_error <= tolerance:
            return AxisMap(float(scale), float(offset))
    raise ModelError(
        f"The preprocessing does not map a {size}-pixel side linearly, alike in all channels.",
        "Expected preprocessing that only resizes, crops, pads or mirrors.",
        "Build with crop='none' (--crop none), or remove rotations and warps.",
    )
