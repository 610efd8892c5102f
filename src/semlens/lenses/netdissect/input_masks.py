"""Masks as the model sees them: in its input, after resizing, cropping and padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from semlens.errors import ModelError
from semlens.lenses.netdissect.mask_folder import MaskFolder
from semlens.models.preprocess_geometry import AxisMap, Geometry

EDGE = 0.25
"""Pixels of the input by which a place may miss the image: the geometry is measured."""


@dataclass(frozen=True, eq=False)
class InputMasks:
    """Masks of one image on a grid over the model's input.

    Parameters
    ----------
    concepts
        Numbers of the concepts that are present.
    inside
        Where each of them is.
    valid
        Where the input shows a labelled pixel of the image: not padding, not void.
    """

    concepts: Int64[np.ndarray, " k"]
    inside: Bool[np.ndarray, "k h w"]
    valid: Bool[np.ndarray, "h w"]

    @property
    def pixels(self) -> Bool[np.ndarray, "k pixels"]:
        """``inside`` with one axis for all pixels."""
        return self.inside.reshape(len(self.concepts), self.valid.size)

    def of(self, concept: int) -> Bool[np.ndarray, "h w"]:
        """Return where a concept is; nowhere if it is absent."""
        return np.logical_or.reduce(self.inside[self.concepts == concept], axis=0)


def grid_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Return rows and columns of the grid over an input, at most ``resolution`` of either."""
    share = min(1.0, resolution / max(height, width))
    return max(1, round(share * height)), max(1, round(share * width))


def masks_in_input(
    masks: MaskFolder,
    image: str,
    geometry: Callable[[int, int], Geometry],
    size: tuple[int, int],
    input_size: tuple[int, int],
    grid: tuple[int, int],
) -> InputMasks:
    """Sample the masks of an image at the centres of a grid over the model's input.

    Parameters
    ----------
    geometry
        From width and height of an image to the place of the input in it.
    size
        Width and height of the image.
    input_size
        Height and width of the model's input.
    grid
        Rows and columns.

    Raises
    ------
    ModelError
        If the preprocessing does more than resize, crop, pad or mirror.
    DataError
        If a mask cannot be read.
    """
    try:
        place = geometry(*size)
    except ModelError as error:
        raise ModelError(
            error.value,
            "Expected preprocessing that only resizes, crops, pads or mirrors, so that it is known "
            "which pixel of a mask belongs to a pixel of the model's input.",
            "Use preprocessing without rotations and warps.",
        ) from error
    rows, seen_rows = _places(place.vertical, input_size[0], grid[0], size[1])
    columns, seen_columns = _places(place.horizontal, input_size[1], grid[1], size[0])
    concepts, inside, labelled = masks.labels(image, size, rows, columns)
    valid = labelled & seen_rows[:, None] & seen_columns[None, :]
    inside = inside & valid
    present = inside.any((1, 2))
    return InputMasks(concepts[present], inside[present], valid)


def _places(
    axis: AxisMap, pixels: int, cells: int, size: int
) -> tuple[Float64[np.ndarray, " cells"], Bool[np.ndarray, " cells"]]:
    """Return where the centres of cells lie in the image, and whether inside of it."""
    centres = (np.arange(cells) + 0.5) * pixels / cells
    places = axis.scale * centres + axis.offset
    edge = EDGE * abs(axis.scale)
    return places, (places > -edge) & (places < size + edge)
