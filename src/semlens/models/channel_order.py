"""Detecting whether the maps of a layer have their channels first or last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor, nn

from semlens.errors import ModelError
from semlens.models.activations import ChannelOrder, channel_order_by_proportion, first_tensor
from semlens.models.hooks import call_model, evaluating, find_layer, reading_layers
from semlens.types import Layout

_CHANNELS_FIRST_MODULES = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d,
    nn.GroupNorm, nn.LocalResponseNorm, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.Dropout2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
"""Modules whose inputs and outputs are [b c h w]."""


@torch.inference_mode()
def find_channel_orders(
    module: nn.Module, batch: Tensor, names: Collection[str], layout: Layout = "auto"
) -> dict[str, ChannelOrder]:
    """Determine the order of the axes of some layers' outputs.

    The type of the module decides if it can (a convolution, a dense layer), then ``layout``.
    Otherwise images of double width are run, which changes nothing but the width of a map. For a
    model that accepts one size only, the axes with the images' aspect ratio are the map.

    Parameters
    ----------
    batch
        float[b 3 h w], a batch for the model.
    layout
        Applies to layers whose type does not determine the order.

    Returns
    -------
    dict
        By layer: ``unknown`` if it cannot be determined, ``auto`` if the output does not have four
        axes.

    Raises
    ------
    LayerError
        If the model has no such layer.
    """
    shapes = _output_shapes(module, batch, names)
    orders: dict[str, ChannelOrder] = dict.fromkeys(names, "auto")
    map_layers = [name for name, shape in shapes.items() if len(shape) == 4]
    orders.update({name: _order_of_type(find_layer(module, name)) or layout for name in map_layers})
    undecided = [name for name in map_layers if orders[name] == "auto"]
    if undecided:
        wide_shapes = _output_shapes(
            module, torch.cat([batch, batch], dim=-1), undecided, complete=False
        )
        for name in undecided:
            detected = _order_by_widening(shapes[name], wide_shapes.get(name, ()))
            orders[name] = detected or channel_order_by_proportion(shapes[name], *batch.shape[-2:])
    return orders


def _order_of_type(module: nn.Module) -> Literal["channels_first", "channels_last"] | None:
    if isinstance(module, _CHANNELS_FIRST_MODULES):
        return "channels_first"
    # subclasses of LayerNorm may expect channels first
    is_plain_norm = type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    return "channels_last" if is_plain_norm or isinstance(module, nn.Linear) else None


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
    """Determine the order of a map's axes from the axis that grew with the width of the images."""
    if len(wide_shape) != 4:
        return None
    grown = [axis for axis in range(4) if shape[axis] != wide_shape[axis]]
    order_of_axis: dict[int, ChannelOrder] = {3: "channels_first", 2: "channels_last"}
    return order_of_axis.get(grown[0]) if len(grown) == 1 else None
