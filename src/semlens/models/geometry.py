"""Where the model's input pixels lie in the original image, for any preprocessing.

A preprocessing function is a black box: the library's, or the user's own. Its
geometry is measured instead of guessed: pictures whose brightness encodes the
horizontal or the vertical place are sent through it, and a straight line is fitted to
what comes out. Resizing, cropping, padding and mirroring are all found so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from semlens.errors import ModelError
from semlens.types import Box

Preprocess = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Axis:
    """``original = scale * input + offset``, in pixel edges, along one axis."""

    scale: float
    offset: float

    def span(self, start: float, stop: float, size: int) -> tuple[int, int]:
        """Map an interval of input pixels to whole original pixels inside the image."""
        ends = sorted((self.scale * start + self.offset, self.scale * stop + self.offset))
        low = min(max(round(ends[0]), 0), size - 1)
        high = max(min(round(ends[1]), size), low + 1)
        return low, high


@dataclass(frozen=True)
class Geometry:
    """The place of the model's input in an original image of ``width`` x ``height``."""

    horizontal: Axis
    vertical: Axis
    width: int
    height: int

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
        If the input's pixels do not lie on straight, evenly spaced lines of the image
        (a rotation or a warp), so that a box has no rectangle in it.
    """
    black = _through(preprocess, np.zeros((height, width), np.uint8))
    range_ = _through(preprocess, np.full((height, width), 255, np.uint8)) - black
    share = np.where(np.abs(range_) > 0.5 * np.abs(range_).max(), range_, np.nan)

    def shares(grey: np.ndarray) -> np.ndarray:
        return (_through(preprocess, np.broadcast_to(grey, (height, width))) - black) / share

    return Geometry(
        _measure(lambda ramp: shares(ramp[None, :]), width),
        _measure(lambda ramp: shares(ramp[:, None]).T, height),
        width,
        height,
    )


def _through(preprocess: Preprocess, grey: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))
    return preprocess(picture).double().mean(0).numpy()


def _measure(shares: Callable[[np.ndarray], np.ndarray], size: int) -> Axis:
    """Fit a line through ramps that narrow down to what the input shows of a long side.

    ``shares`` sends a ramp through the preprocessing: [others, along] of shares of white,
    NaN where the input shows nothing of the image. With 255 grey levels over the whole of a
    4000-pixel side, a crop of 50 pixels would see three of them.
    """
    if size == 1:
        return Axis(0.0, 0.0)
    start, stop = 0.0, float(size)
    while True:
        step = (stop - start) / 255
        ramp = np.clip((np.arange(size) + 0.5 - start) / step, 0, 255)
        places = shares(np.round(ramp).astype(np.uint8)) * (stop - start) + start
        axis = _fit(places, start, stop, size)
        columns = np.flatnonzero(~np.isnan(places).all(axis=0))
        ends = sorted(axis.scale * edge + axis.offset for edge in (columns[0], columns[-1] + 1))
        margin = 0.25 * (ends[1] - ends[0]) + 3 * step + 2
        low, high = max(ends[0] - margin, 0.0), min(ends[1] + margin, float(size))
        if high - low > 0.5 * (stop - start):
            return axis
        start, stop = low, high


def _fit(places: np.ndarray, start: float, stop: float, size: int) -> Axis:
    """Fit a line to original places [others, along] that lie between ``start`` and ``stop``."""
    good = ~np.isnan(places).all(axis=0)
    if good.sum() >= 2:
        profile = np.nanmean(places[:, good], axis=0)
        centre = np.flatnonzero(good) + 0.5
        scale, offset = np.polyfit(centre, profile, 1)
        for reach in (2, 1, 0.5):  # the image's border is clamped by the resampling filter
            margin = reach * max(1.0, abs(scale))
            line = scale * centre + offset
            inner = (line > start + margin) & (line < stop - margin)
            if inner.sum() >= max(4, good.sum() / 4):
                scale, offset = np.polyfit(centre[inner], profile[inner], 1)
                break
        tolerance = max(1.5, 0.01 * (stop - start)) + abs(scale)
        stray = np.nanmax(np.abs(places[:, good] - (scale * centre + offset)[None, :]))
        if abs(scale) * good.sum() > 0.5 and stray <= tolerance:
            return Axis(float(scale), float(offset))
    raise ModelError(
        f"The preprocessing maps a {size}-pixel side to no straight scale.",
        "Crops need a preprocessing of resize, crop, pad or mirror only.",
        "Use --crop none, or take rotations and warps out of the preprocessing.",
    )
