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
    white = _through(preprocess, np.full((height, width), 255, np.uint8))
    ramp = [np.round((np.arange(n) + 0.5) / n * 255).astype(np.uint8) for n in (width, height)]
    across = _through(preprocess, np.broadcast_to(ramp[0][None, :], (height, width)))
    down = _through(preprocess, np.broadcast_to(ramp[1][:, None], (height, width)))
    range_ = white - black
    seen = np.abs(range_) > 0.5 * np.abs(range_).max()
    share = np.where(seen, range_, 1.0)
    x = np.where(seen, (across - black) / share, np.nan) * width
    y = np.where(seen, (down - black) / share, np.nan) * height
    return Geometry(_fit(x, 0, width), _fit(y, 1, height), width, height)


def _through(preprocess: Preprocess, grey: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))
    return preprocess(picture).double().mean(0).numpy()


def _fit(places: np.ndarray, along: int, size: int) -> Axis:
    """Fit a line along axis ``x`` (0) or ``y`` (1) of an [h w] array of original places."""
    valid = ~np.isnan(places)
    lines = places if along == 0 else places.T
    good = (valid if along == 0 else valid.T).any(axis=0)
    if good.sum() >= 2:
        profile = np.nanmean(lines[:, good], axis=0)
        centre = np.flatnonzero(good) + 0.5
        # the outermost pixels see the resampling filter's clamped border
        inner = slice(1, -1) if len(centre) >= 6 else slice(None)
        scale, offset = np.polyfit(centre[inner], profile[inner], 1)
        tolerance = max(1.5, 0.01 * size) + abs(scale)
        stray = np.nanmax(np.abs(lines[:, good] - (scale * centre + offset)[None, :]))
        if scale != 0 and stray <= tolerance:
            return Axis(float(scale), float(offset))
    raise ModelError(
        f"The preprocessing maps a {size}-pixel side to no straight scale.",
        "Crops need a preprocessing of resize, crop, pad or mirror only.",
        "Use --crop none, or take rotations and warps out of the preprocessing.",
    )
