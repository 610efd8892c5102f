"""Models that take arrays: signals, volumes, and images with channels of their own."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from semlens.data.array_picture import AXES, ArrayPicture, picture_size
from semlens.errors import ModelError
from semlens.models.preprocess_geometry import AxisMap, Geometry, measure_geometry


def _unchanged(values: Tensor) -> Tensor:
    return values


@dataclass(frozen=True)
class ArrayInput:
    """What a model takes that does not take pictures: in place of its preprocessing.

    Inside of semlens every input is a map [c h w]: a volume [c d h w] is its slices below each
    other, [c d*h w], and a signal [c t] a single row, [c 1 t]. The model gets what it takes.

    Parameters
    ----------
    shape
        Of an array of the data: channels and length [c t], height and width [c h w], or slices,
        height and width [c d h w].
    value_range
        Between which values the arrays of the data lie, about; examples on which the model is
        measured are drawn from it.
    transform
        From an array float32 of this shape to the model's input; by default it is the input. The
        size of a signal or a volume must stay the same.

    Raises
    ------
    ModelError
        If the shape has another number of axes, or the range is empty.

    Examples
    --------
    >>> ArrayInput((12, 1000)).axes
    1
    """

    shape: tuple[int, ...]
    value_range: tuple[int | float, int | float] = (0, 1)
    transform: Callable[[Tensor], Tensor] = _unchanged

    def __post_init__(self) -> None:
        """Check the shape and the range."""
        object.__setattr__(self, "shape", tuple(self.shape))
        numbers = all(type(size) is int and size > 0 for size in self.shape)
        if not (numbers and self.axes in AXES):
            raise ModelError(
                f"The shape of the input is {self.shape!r}.",
                "Expected (channels, length), (channels, height, width) or (channels, slices, "
                "height, width), all positive.",
                "Pass the shape of one array of the data, without a batch.",
            )
        low, high = self.value_range
        if not (np.isfinite([low, high]).all() and low < high):
            raise ModelError(
                f"The value_range of the input is {self.value_range!r}.",
                "Expected two finite numbers, the lower first.",
                "Pass the range of values in the data, such as (0, 65535) or (-1000, 3000).",
            )

    @property
    def axes(self) -> int:
        """Number of axes besides the channels: 1 for signals, 2 for images, 3 for volumes."""
        return len(self.shape) - 1

    @property
    def slices(self) -> int:
        """Slices that the maps of inputs are made of; 1 but for volumes."""
        return self.shape[1] if self.axes == 3 else 1

    def __call__(self, picture: Image.Image) -> Float[Tensor, "c h w"]:
        """Return the model's input for a picture that has its numbers.

        Raises
        ------
        ModelError
            If the picture has no numbers, or those of an array of another shape.
        """
        if not isinstance(picture, ArrayPicture):
            raise ModelError(
                f"The model takes arrays {list(self.shape)}, and this is a picture of "
                f"{picture.width} x {picture.height} pixels without them.",
                "Expected data with the numbers that the model was trained on.",
                "Give the data as signals:FOLDER, arrays:FOLDER or volumes:FOLDER, or as "
                "semlens.ArraySequence. A question that edits pictures cannot be asked here.",
            )
        values = picture.in_place
        if values.shape != self.shape:
            raise ModelError(
                f"An array of the data has the shape {list(values.shape)}.",
                f"Expected {list(self.shape)}, as the model's ArrayInput says; channels come "
                "first.",
                "Resample or transpose the arrays, or correct the shape.",
            )
        return self.of_values(torch.from_numpy(values.astype(np.float32)))

    def of_values(self, values: Float[Tensor, "c ..."]) -> Float[Tensor, "c h w"]:
        """Return the model's input for an array, as a map.

        Raises
        ------
        ModelError
            If the transform returns something else, or a signal or volume of another size.
        """
        made: Any = self.transform(values)
        is_input = isinstance(made, Tensor) and made.is_floating_point()
        if not (is_input and made.ndim == values.ndim):
            received = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ModelError(
                f"The transform of an array {list(self.shape)} returns {received}.",
                "Expected a float tensor with as many axes.",
                "Leave the batch axis out, and return floating-point numbers.",
            )
        if self.axes != 2 and made.shape[1:] != values.shape[1:]:
            raise ModelError(
                f"The transform makes {list(made.shape)} of an array {list(self.shape)}.",
                "Expected a signal or a volume of the same size, so that a position of the input "
                "is one of the data.",
                "Resample the data itself, and let the transform scale values only.",
            )
        return made.flatten(1, -2) if self.axes == 3 else made[:, None] if self.axes == 1 else made

    def random_pictures(self, count: int, cells: int = 8) -> list[ArrayPicture]:
        """Return arrays of smooth random values in the range; always the same."""
        generator = torch.Generator().manual_seed(0)
        low, high = self.value_range
        coarse = [min(cells, size) for size in self.shape[1:]]
        noise = torch.rand(count, self.shape[0], *coarse, generator=generator)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[self.axes]
        smooth = nn.functional.interpolate(noise, self.shape[1:], mode=mode)
        return [ArrayPicture.blank((low + (high - low) * one).numpy()) for one in smooth]

    def geometry(self, width: int, height: int) -> Geometry:
        """Return where inputs lie in the picture of an array.

        Raises
        ------
        ModelError
            If the picture is not that of an array of this shape, or the transform of an image
            warps it.
        """
        if (width, height) != picture_size(self.shape):
            raise ModelError(
                f"The picture has {width} x {height} pixels.",
                f"Expected {' x '.join(map(str, picture_size(self.shape)))}: that of an array "
                f"{list(self.shape)}.",
                "Use the data that the model takes.",
            )
        if self.axes == 2:
            return measure_geometry(self._of_grey, width, height)
        columns = width // self.shape[-1]
        rows = height if self.axes == 1 else 1
        return Geometry(AxisMap(float(columns), 0.0), AxisMap(float(rows), 0.0), width, height)

    def _of_grey(self, image: Image.Image) -> Tensor:
        """Return the input for an array whose channels all show a grey picture."""
        low, high = self.value_range
        grey = torch.from_numpy(np.asarray(image)[:, :, 0].astype(np.float32) / 255)
        return self.of_values((low + (high - low) * grey).expand(self.shape[0], -1, -1))


class MapInput(nn.Module):
    """A model of signals or volumes whose input is a map, see :class:`ArrayInput`.

    It is put before the model's own class by :func:`taking_maps`, so that layers and weights keep
    their names.
    """

    map_slices: int | None
    """Number of slices of a volume; None for signals."""

    def forward(self, batch: Float[Tensor, "b c h w"]) -> Any:
        """Return the output of the model for the signals or volumes of maps."""
        slices = self.map_slices
        own = batch.flatten(2) if slices is None else batch.unflatten(2, (slices, -1))
        return super().forward(own)  # type: ignore[misc]  # of the model's own class


def taking_maps(module: nn.Module, slices: int | None) -> nn.Module:
    """Return a model of signals, or of volumes of some slices, that takes maps [b c h w].

    It has the layers and weights of the model, which is not changed.
    """
    if isinstance(module, MapInput):
        return module
    own = type(module)
    other: Any = copy(module)
    other.__class__ = type(own.__name__, (MapInput, own), {"__module__": own.__module__})
    other.map_slices = slices
    return other
