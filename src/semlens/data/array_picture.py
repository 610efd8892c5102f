"""A sample that is an array: what the model gets, and the picture that people and embedders see.

Signals, volumes, and images with other channels than red, green and blue have no picture of their
own. This is the one place where such an input becomes one: a rendering draws it, and positions in
the picture are positions in the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from semlens.types import Box

LANE = 64
"""Height in pixels of the plot of a channel of a signal."""
_LEAST_WIDTH = 256
"""A shorter signal is drawn with several pixels per value."""
AXES = {1: "[t] or [c t]", 2: "[h w] or [c h w]", 3: "[d h w] or [c d h w]"}
"""Forms of arrays, by the number of their axes besides the channels."""


class ArrayPicture(Image.Image):
    """An RGB picture of an array, or of a part of it, that keeps the numbers.

    An image [c h w] has one pixel per position. A volume [c d h w] is the picture of its slices
    below each other, w wide and d * h high. A signal [c t] is a plot, t times :attr:`step` wide.

    Parameters
    ----------
    rgb
        The picture.
    whole
        The array [c ...] of the sample.
    box
        What part of the sample's picture this is; by default all of it.
    """

    def __init__(
        self, rgb: UInt8[np.ndarray, "h w 3"], whole: np.ndarray, box: Box | None = None
    ) -> None:
        super().__init__()
        state: Any = Image.fromarray(rgb).__getstate__()
        self.__setstate__(state)
        self.whole = whole
        self.box = box or Box(0, 0, *self.size)

    @classmethod
    def blank(cls, whole: np.ndarray) -> ArrayPicture:
        """Return an array with an empty picture, for a model that reads the numbers only."""
        width, height = picture_size(whole.shape)
        return cls(np.zeros((height, width, 3), np.uint8), whole)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the picture, the numbers, and the part."""
        return type(self), (np.asarray(self), self.whole, self.box)

    @property
    def step(self) -> int:
        """Pixels per value of a signal; 1 for all others."""
        return pixels_per_value(self.whole.shape)

    @property
    def window(self) -> tuple[slice, ...]:
        """The part of the array that the picture shows, along each axis."""
        left, top, right, bottom = self.box.as_tuple()
        match self.whole.ndim:
            case 2:
                return slice(None), slice(left // self.step, -(-right // self.step))
            case 3:
                return slice(None), slice(top, bottom), slice(left, right)
            case _:
                height = self.whole.shape[2]
                first, last = top // height, (bottom - 1) // height
                # slices above each other are whole ones, unless the part is within one
                rows = slice(top % height, (bottom - 1) % height + 1)
                rows = rows if first == last else slice(None)
                return slice(None), slice(first, last + 1), rows, slice(left, right)

    @property
    def values(self) -> np.ndarray:
        """The numbers [c ...] of the part of the array that the picture shows."""
        return self.whole[self.window]

    @property
    def in_place(self) -> np.ndarray:
        """The whole array; outside of the part, each channel has its mean.

        A model that takes arrays of one size sees a part at its place and scale.
        """
        if self.values.shape == self.whole.shape:
            return self.whole
        axes = tuple(range(1, self.whole.ndim))
        mean = self.whole.mean(axes, dtype=np.float64, keepdims=True).astype(self.whole.dtype)
        result = np.broadcast_to(mean, self.whole.shape).copy()
        result[self.window] = self.values
        return result

    def crop(self, box: tuple[int | float, ...] | None = None) -> ArrayPicture:
        """Return a part of the picture, with its numbers."""
        if box is None:
            return self
        left, top, right, bottom = (round(edge) for edge in box)
        part = np.asarray(super().crop((left, top, right, bottom)).convert("RGB"))
        own = self.box
        inside = Box(
            max(own.left + left, own.left), max(own.top + top, own.top),
            min(own.left + right, own.right), min(own.top + bottom, own.bottom),
        )  # fmt: skip
        return ArrayPicture(part, self.whole, inside)


def slices_of(image: Image.Image) -> int:
    """Return how many slices a picture of a volume is made of, one below the other; else 1."""
    if isinstance(image, ArrayPicture) and image.whole.ndim == 4:
        return max(image.height // image.whole.shape[2], 1)
    return 1


def in_slice(image: Image.Image, box: Box) -> tuple[Image.Image, Box]:
    """Return a picture and a box in it; of a volume, the slice that the box is in, and its place.

    A box over several slices stays in the picture of all of them.
    """
    height = image.height // slices_of(image)
    top = box.top // height * height
    if height == image.height or box.bottom > top + height:
        return image, box
    return image.crop((0, top, image.width, top + height)), box.moved(0, -top)


def pixels_per_value(shape: tuple[int, ...]) -> int:
    """Return how many pixels wide a value of a signal [c t] is drawn; 1 for other arrays."""
    return -(-_LEAST_WIDTH // shape[1]) if len(shape) == 2 else 1


def picture_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return width and height of the picture of an array [c ...]."""
    match shape:
        case (channels, length):
            return length * pixels_per_value(shape), channels * LANE
        case (_, height, width):
            return width, height
        case _:
            _, slices, height, width = shape
            return width, slices * height
