"""Layouts of layer outputs, the order of their axes, and readouts per component and sample."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int32
from torch import Tensor, nn

from semlens.errors import LayerError, ModelError
from semlens.models.hooks import call_model, evaluating, find_layer, reading_layers
from semlens.types import Layout, Readout

Form = Literal["map", "map-last", "tokens", "units"]
"""[b c h w], [b h w c] (Swin and similar models), [b t c] and [b c]."""

ChannelOrder = Layout | Literal["unknown"]
"""Result of :func:`semlens.models.activations.find_channel_orders` for a layer."""


@dataclass(frozen=True)
class LayerLayout:
    """Layout of a layer's output.

    Parameters
    ----------
    name
        Name of the layer, as in ``named_modules``.
    form
        Order of the output's axes.
    components
        Number of channels, token features or units.
    height, width
        Size of the spatial map; (0, 0) if the layer has none.
    prefix
        Tokens before the spatial ones (class token, registers).
    """

    name: str
    form: Form
    components: int
    height: int = 0
    width: int = 0
    prefix: int = 0


@dataclass(frozen=True)
class LayerReadouts:
    """Readouts of a layer for one batch; the leading axis of ``peak`` is sign +1, sign -1."""

    value: Float32[Tensor, "b c"]
    """The readout by which components of sign +1 rank samples."""
    negative: Float32[Tensor, "b c"]
    """The readout by which components of sign -1 rank samples, negated: strongest is largest."""
    peak: Float32[Tensor, "2 b c"]
    """Largest activation, and largest negated activation, over space or tokens."""
    position: Int32[Tensor, "2 b c"]
    """Flat index of each peak in the map, or index of the token."""


def first_tensor(output: Any) -> Any:
    """Return a module's output if it is a tensor, or the first tensor in a tuple or mapping."""
    if isinstance(output, Tensor):
        return output
    items = output.values() if isinstance(output, Mapping) else output
    tensors = map(first_tensor, items) if isinstance(output, tuple | list | Mapping) else ()
    return next((tensor for tensor in tensors if tensor is not None), None)


def replace_first_tensor(output: Any, tensor: Tensor) -> Any:
    """Return a copy of ``output`` with ``tensor`` in place of its :func:`first_tensor`."""
    if isinstance(output, Tensor):
        return tensor
    is_mapping = isinstance(output, Mapping)
    changed: Any = copy(output) if is_mapping else list(output)
    items = output.items() if is_mapping else enumerate(output)
    key, value = next((k, v) for k, v in items if first_tensor(v) is not None)
    changed[key] = replace_first_tensor(value, tensor)
    return changed if is_mapping else type(output)(changed)


def measure_layout(name: str, output: Any, channel_order: ChannelOrder = "auto") -> LayerLayout:
    """Determine the layout of a layer's output.

    Parameters
    ----------
    channel_order
        Order of four axes. With ``auto``, the two axes of equal size are the map.

    Raises
    ------
    LayerError
        If it is not a floating-point tensor with two to four axes, is empty, or the order of four
        axes is not known.
    """
    tensor = first_tensor(output)
    if tensor is None or not tensor.is_floating_point() or not 2 <= tensor.ndim <= 4:
        received = (
            "no tensor" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"
        )
        raise LayerError(
            f"Layer '{name}' returns {received}.",
            "Expected floats of shape [b c], [b t c], [b c h w] or [b h w c].",
            "Choose a layer before or after it; 'semlens layers MODEL' lists the forms.",
        )
    shape = list(tensor.shape)
    if 0 in shape:
        raise LayerError(
            f"Layer '{name}' returns an empty tensor of shape {shape}.",
            "Expected at least one channel, and one position.",
            "Leave the layer out.",
        )
    if tensor.ndim == 2:
        return LayerLayout(name, "units", shape[1])
    if tensor.ndim == 3:
        prefix, height, width = _token_grid(shape[1])
        return LayerLayout(name, "tokens", shape[2], height, width, prefix)
    order = channel_order_by_proportion(shape, 1, 1) if channel_order == "auto" else channel_order
    if order == "unknown":
        raise LayerError(
            f"The channels of layer '{name}', of shape {shape}, may come first or last.",
            "Expected a layer or an input size from which the axes of the map can be determined.",
            "Pass layout='channels_first' or 'channels_last' to build, or to SubjectModel.",
        )
    if order == "channels_last":
        return LayerLayout(name, "map-last", shape[3], shape[1], shape[2])
    return LayerLayout(name, "map", shape[1], shape[2], shape[3])


def zero_channels(layout: LayerLayout, values: Tensor, channels: Sequence[int]) -> Tensor:
    """Return a copy of values [... c h w] or [... c] of a layer with some channels set to zero.

    Raises
    ------
    LayerError
        If the layer does not have a channel.
    """
    check_channel(layout, max(channels, default=0))
    index = torch.tensor(list(channels), dtype=torch.int64, device=values.device)
    return values.index_fill(-3 if layout.form == "map" else -1, index, 0)


def check_channel(layout: LayerLayout, index: int) -> None:
    """Raise an error if a layer does not have a channel.

    Raises
    ------
    LayerError
        If ``index`` is not less than the number of channels.
    """
    if index >= layout.components:
        raise LayerError(
            f"Component {index} is not in layer '{layout.name}'.",
            f"It has components 0 to {layout.components - 1}.",
            "Choose components from a database of this model.",
        )


def channel_order_by_proportion(shape: Sequence[int], height: int, width: int) -> ChannelOrder:
    """Determine which axes are the map: those that are square, or have the images' aspect ratio.

    Parameters
    ----------
    shape
        Shape of an output with four axes.
    height, width
        Size of the images. Maps may be rounded up or down to whole positions.
    """

    def fits(h: int, w: int) -> bool:
        return h == w or abs(h * width - w * height) < max(height, width)

    first, last = fits(shape[2], shape[3]), fits(shape[1], shape[2])
    if first == last:
        return "unknown"
    return "channels_first" if first else "channels_last"


def _token_grid(tokens: int) -> tuple[int, int, int]:
    """Split a token count into as few prefix tokens as possible and a square grid."""
    for prefix in range(min(tokens, 17)):
        side = math.isqrt(tokens - prefix)
        if side > 1 and side * side == tokens - prefix:
            return prefix, side, side
    return 0, 0, 0


def flatten(layout: LayerLayout, output: Any) -> Float32[Tensor, "b c p"]:
    """Return the output as [samples, components, positions] in float32."""
    tensor = first_tensor(output).detach()
    match layout.form:
        case "map":
            tensor = tensor.flatten(2)
        case "map-last":
            tensor = tensor.flatten(1, 2).transpose(1, 2)
        case "tokens":
            tensor = tensor.transpose(1, 2)
        case "units":
            tensor = tensor[:, :, None]
    return tensor.float()


def spatial_map(layout: LayerLayout, output: Any) -> Float32[Tensor, "b c h w"] | None:
    """Return the spatial map without prefix tokens, or None if the layer has none."""
    if layout.height == 0:
        return None
    return flatten(layout, output)[:, :, layout.prefix :].unflatten(
        2, (layout.height, layout.width)
    )


def compute_readouts(layout: LayerLayout, output: Any, readout: Readout) -> LayerReadouts:
    """Reduce a layer's output to readouts and peaks (paper, 3.1).

    Raises
    ------
    LayerError
        If the readout is ``cls`` and the layer has no class token.
    """
    flat = flatten(layout, output)
    high, argmax = flat.max(dim=2)
    low, argmin = flat.min(dim=2)
    if readout == "max":
        value, negative = high, -low
    elif readout == "mean" or (layout.form == "tokens" and layout.prefix > 0):
        value = flat.mean(dim=2) if readout == "mean" else flat[:, :, 0].contiguous()
        negative = -value
    else:
        raise LayerError(
            f"Layer '{layout.name}' has no class token (its form is {layout.form}).",
            "Readout 'cls' needs tokens that start with one.",
            "Use readout 'mean' or 'max', or choose a transformer layer.",
        )
    return LayerReadouts(
        value,
        negative,
        torch.stack([high, -low]),
        torch.stack([argmax, argmin]).to(torch.int32),
    )


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
