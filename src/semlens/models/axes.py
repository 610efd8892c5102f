"""What the axes of layers' outputs are: measured by running the model on changed images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from semlens.errors import ModelError
from semlens.models.activations import Axes, ChannelOrder, channel_order_by_proportion, first_tensor
from semlens.models.hooks import (
    call_model,
    evaluating,
    find_layer,
    forward_hooks_on,
    layer_modules,
    reading_layers,
)
from semlens.types import Layout

_CHANNELS_FIRST_MODULES = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d,
    nn.GroupNorm, nn.LocalResponseNorm, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.Dropout2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d,
    nn.CircularPad2d, nn.MaxUnpool2d, nn.FractionalMaxPool2d,
    nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.MaxPool1d, nn.AvgPool1d,
    nn.LPPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.Dropout1d, nn.ZeroPad1d,
    nn.ReflectionPad1d, nn.ReplicationPad1d, nn.ConstantPad1d, nn.CircularPad1d, nn.MaxUnpool1d,
    nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.InstanceNorm3d, nn.MaxPool3d, nn.AvgPool3d,
    nn.LPPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d, nn.Dropout3d, nn.ZeroPad3d,
    nn.ReflectionPad3d, nn.ReplicationPad3d, nn.ConstantPad3d, nn.CircularPad3d, nn.MaxUnpool3d,
)  # fmt: skip
"""Modules whose inputs and outputs are [b c h w], [b c l] or [b c d h w]."""
Grid = tuple[int, int, int]
"""Positions before a grid, and its height and width."""
MOST_PREFIX = 16
"""Class tokens and registers before a grid that is known from a map only."""
_UNCHANGED = 1e-6
"""Change of a value that is rounding, as a share of the largest value of the layer."""


@torch.inference_mode()
def find_axes(
    module: nn.Module, batch: Tensor, names: Collection[str], layout: Layout = "auto"
) -> dict[str, Axes]:
    """Determine what the axes of some layers' outputs are.

    Four axes: the type of the module decides if it can (a convolution, a dense layer), then
    ``layout``. Otherwise images of double width are run, which changes nothing but the width of a
    map. For a model that accepts one size only, the axes with the images' aspect ratio are the
    map, unless the model has no map of this size otherwise.

    Five axes, of volumes: the module's type, wider volumes, then ``layout``.

    Three axes: halves of an image are changed, and the axis along which the changes follow the
    image holds the positions; which of them change gives the grid, and the class token and
    registers before it. After layers that mix all positions, the axis of as many positions is
    theirs, and the grid is that of as many positions, or of the model's only map that fits.

    Parameters
    ----------
    batch
        float[1 3 h w], an image for the model.
    layout
        Applies to layers of which neither type nor measurement determines the order.

    Returns
    -------
    dict
        By layer; its order is ``unknown`` if it cannot be determined.

    Raises
    ------
    LayerError
        If the model has no such layer.
    """
    shapes = _output_shapes(module, batch, names)
    axes: dict[str, Axes] = dict.fromkeys(names, Axes())
    maps = [name for name, shape in shapes.items() if len(shape) in (4, 5)]
    sequences = [name for name, shape in shapes.items() if len(shape) == 3]
    orders: dict[str, ChannelOrder] = {
        name: _order_of_map(find_layer(module, name)) or layout for name in maps
    }
    undecided = [name for name in maps if orders[name] == "auto"]
    if undecided or sequences:
        wide = _output_shapes(
            module, torch.cat([batch, batch], dim=-1), [*undecided, *sequences], complete=False
        )
        grown: dict[str, ChannelOrder | None] = {
            name: _order_by_widening(shapes[name], shape) for name, shape in wide.items()
        }
        fixed = [name for name in undecided if grown.get(name) is None]
        fixed = [name for name in fixed if len(shapes[name]) == 4]
        probe = _Probe.of(module, batch) if fixed or sequences else _Probe()
        for name in undecided:
            measured = grown.get(name)
            if measured is None and name in fixed:
                measured = probe.order_of_map(shapes[name], batch)
            orders[name] = measured or "unknown"
        axes |= probe.axes(sequences, grown, layout)
    return axes | {name: Axes(order) for name, order in orders.items()}


def _order_of_map(module: nn.Module) -> ChannelOrder | None:
    if isinstance(module, _CHANNELS_FIRST_MODULES):
        return "channels_first"
    return "channels_last" if _features(module) is not None else None


def _features(module: nn.Module) -> int | None:
    """Return the size of the last axis of a module's input, if its type says that it uses this."""
    if isinstance(module, nn.Linear):
        return module.in_features
    # subclasses of LayerNorm may expect channels first
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
        return int(module.normalized_shape[0])
    return None


def _output_shapes(
    module: nn.Module, batch: Tensor, names: Collection[str], *, complete: bool = True
) -> dict[str, Sequence[int]]:
    """Run a batch and return the shapes of outputs; the pass may fail unless ``complete``."""
    shapes: dict[str, Sequence[int]] = {}

    def record(name: str, output: object) -> None:
        if (tensor := first_tensor(output)) is not None:
            shapes[name] = tensor.shape

    with (
        suppress(*(() if complete else (ModelError,))),
        evaluating(module),
        reading_layers(module, names, record),
    ):
        call_model(module, batch)
    return shapes


def _order_by_widening(shape: Sequence[int], wide_shape: Sequence[int]) -> ChannelOrder | None:
    """Determine the order of the axes from the axis that grew with the width of the images."""
    if len(wide_shape) != len(shape):
        return None
    grown = [axis for axis in range(len(shape)) if shape[axis] != wide_shape[axis]]
    order_of_axis: dict[int, ChannelOrder] = {
        len(shape) - 1: "channels_first",
        len(shape) - 2: "channels_last",
    }
    return order_of_axis.get(grown[0]) if len(grown) == 1 else None


@dataclass(frozen=True)
class _Response:
    """How an output of three axes responds to changes of the image.

    Parameters
    ----------
    shape
        Sizes of the second and the third axis.
    grids
        Prefix, height and width along each of them; None where the changes do not follow the image.
    """

    shape: tuple[int, int]
    grids: tuple[Grid | None, Grid | None]

    def axes(self) -> Axes | None:
        """Return what was measured; None if neither axis, or both, follow the image."""
        first, last = self.grids
        if first is not None and last is None:
            return Axes("channels_last", *first)
        return Axes("channels_first", *last) if last is not None and first is None else None


@dataclass(frozen=True)
class _Probe:
    """Outputs of all layers of a model for an image that is changed in parts.

    Parameters
    ----------
    responses
        Of outputs with three axes, by layer.
    orders
        The order of their axes, where it is measured or follows from a layer's type or sizes.
    grids
        The grid of each number of positions that was measured in one way only.
    maps
        Sizes of the maps of layers whose type tells the order of four axes.
    """

    responses: Mapping[str, _Response] = field(default_factory=dict[str, _Response])
    orders: Mapping[str, ChannelOrder] = field(default_factory=dict[str, ChannelOrder])
    grids: Mapping[int, Grid] = field(default_factory=dict[int, Grid])
    maps: Collection[tuple[int, int]] = ()

    @classmethod
    def of(cls, module: nn.Module, batch: Tensor) -> _Probe:
        """Run a model on the changed images."""
        responses: dict[str, _Response] = {}
        maps: set[tuple[int, int]] = set()
        images = _changed_images(batch)

        def record(name: str, output: Any) -> None:
            value = first_tensor(output)
            if value is None or value.ndim not in (3, 4) or len(value) != len(images):
                return
            if value.ndim == 4:
                order = _order_of_map(find_layer(module, name))
                height, width = value.shape[2:] if order == "channels_first" else value.shape[1:3]
                maps.update([(height, width)] if order else ())
            elif 0 not in value.shape:
                value = value.detach().float()
                changed = (value[1:] - value[:1]).abs() > _UNCHANGED * value.abs().max()
                first, last = (
                    _grid(changed.any(axis).cpu().numpy(), one_row=batch.shape[-2] == 1)
                    for axis in (2, 1)
                )
                responses[name] = _Response((value.shape[1], value.shape[2]), (first, last))

        hooks = {name: partial(record, name) for name in layer_modules(module) if name}
        # a model may refuse several images at once; then nothing is measured
        with suppress(ModelError), evaluating(module), forward_hooks_on(module, hooks):
            call_model(module, images)
        measured = {name: axes for name, r in responses.items() if (axes := r.axes())}
        grids = _grids_by_size(responses, measured)
        sizes = {*grids, *(height * width for height, width in maps if min(height, width) > 1)}
        orders: dict[str, ChannelOrder] = {
            name: measured[name].order if name in measured
            else _order_of_sequence(find_layer(module, name), response.shape, sizes)
            for name, response in responses.items()
        }  # fmt: skip
        return cls(responses, orders, grids, maps)

    def order_of_map(self, shape: Sequence[int], batch: Tensor) -> ChannelOrder:
        """Return the order of four axes of a model that accepts images of one size only.

        The axes with the images' aspect ratio are the map, if the model is known to have a map of
        this size: attention has square outputs, too.
        """
        order = channel_order_by_proportion(shape, *batch.shape[-2:])
        sides = {"channels_first": shape[2:], "channels_last": shape[1:3]}.get(order, ())
        return order if not self.maps or tuple(sides) in self.maps else "unknown"

    def axes(
        self, names: Collection[str], grown: Mapping[str, ChannelOrder | None], layout: Layout
    ) -> dict[str, Axes]:
        """Return the axes of outputs with three axes.

        Parameters
        ----------
        grown
            The order that wider images tell, if they do.
        """
        by_shape: dict[tuple[int, int], set[ChannelOrder]] = {}
        for name, order in self.orders.items():
            if order != "unknown":
                by_shape.setdefault(self.responses[name].shape, set()).add(order)
        found: dict[str, Axes] = {}
        for name in names:
            if name not in self.responses:  # its first axis is not that of the images
                found[name] = Axes("unknown")
                continue
            response, order = self.responses[name], self.orders[name]
            if order == "unknown":
                same = by_shape.get(response.shape, set())
                siblings: ChannelOrder = next(iter(same)) if len(same) == 1 else "unknown"
                order = grown.get(name) or (siblings if layout == "auto" else layout)
            found[name] = response.axes() or self._with_grid(order, response.shape)
        return found

    def _with_grid(self, order: ChannelOrder, shape: tuple[int, int]) -> Axes:
        """Return axes with the grid of as many positions, if there is one only."""
        size = {"channels_last": shape[0], "channels_first": shape[1]}.get(order, 0)
        if size in self.grids:
            return Axes(order, *self.grids[size])
        maps = [(h, w) for h, w in self.maps if min(h, w) > 1]
        whole = [(0, h, w) for h, w in maps if h * w == size]
        fits = whole or [(size - h * w, h, w) for h, w in maps if 0 < size - h * w <= MOST_PREFIX]
        return Axes(order, *fits[0]) if len(fits) == 1 else Axes(order)


def _changed_images(batch: Tensor) -> Tensor:
    """Return an image; and the same with another upper half, left half, and all of it."""
    image = batch[0]
    height, width = image.shape[-2:]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    other = image + noise.to(image) * (image.std() + 1e-3)
    upper, left = image.clone(), image.clone()
    upper[:, : height // 2] = other[:, : height // 2]
    left[:, :, : width // 2] = other[:, :, : width // 2]
    return torch.stack([image, upper, left, other])


def _grid(changed: Bool[np.ndarray, "3 n"], *, one_row: bool) -> Grid | None:
    """Return prefix, height and width of positions, from which of them change with the image.

    Positions are row by row, after those that do not change at all; None for any other pattern.

    Parameters
    ----------
    changed
        Whether each changes with the upper half, the left half, and the whole image.
    one_row
        Whether images are signals, which have no upper half.
    """
    upper, left, whole = changed
    if not whole.any():
        return None
    prefix = int(whole.argmax())
    upper, left, count = upper[prefix:], left[prefix:], len(whole) - prefix
    if one_row:
        first = int(left.sum())
        follows = whole[prefix:].all() and not left[first:].any() and 0 < first < count
        return (prefix, 1, count) if follows and not changed[1, :prefix].any() else None
    starts = np.flatnonzero(left[1:] & ~left[:-1]) + 1
    width = int(starts[0]) if len(starts) else 0
    rows = int(upper.sum())
    follows = (
        whole[prefix:].all() and not changed[:, :prefix].any()
        and 0 < rows < count and upper[:rows].all()
        and width > 1 and left[0] and count % width == 0 and rows % width == 0
        and np.array_equal(left, np.tile(left[:width], count // width))
    )  # fmt: skip
    return (prefix, count // width, width) if follows else None


def _grids_by_size(
    responses: Mapping[str, _Response], measured: Mapping[str, Axes]
) -> dict[int, Grid]:
    grids: dict[int, set[Grid]] = {}
    for name, axes in measured.items():
        first, last = responses[name].shape
        size = first if axes.order == "channels_last" else last
        grids.setdefault(size, set()).add((axes.prefix, axes.height, axes.width))
    return {size: next(iter(found)) for size, found in grids.items() if len(found) == 1}


def _order_of_sequence(
    module: nn.Module, shape: tuple[int, int], positions: Collection[int]
) -> ChannelOrder:
    """Return the order of an output's axes from the module's type and the numbers of positions."""
    if isinstance(module, _CHANNELS_FIRST_MODULES):
        return "channels_first"
    first, last = shape[0] in positions, shape[1] in positions
    if first != last:
        return "channels_last" if first else "channels_first"
    features = _features(module)
    if features is None:
        return "unknown"
    if features not in positions:
        return "channels_last"
    # a dense layer over positions mixes these
    return "unknown" if first else "channels_first"
