"""Layouts of layer outputs, the order of their axes, and readouts per component and sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from semlens.errors import LayerError
from semlens.types import Layout, Readout

Form = Literal["map", "map-last", "tokens", "sequence", "units", "volume", "volume-last"]
"""[b c h w], [b h w c] (Swin and similar models), [b t c], [b c l], [b c], [b c d h w] and
[b d h w c]."""

ChannelOrder = Layout | Literal["unknown"]
"""Whether the channels are the second or the last axis; ``auto`` if nothing was measured."""


CHANNELS_FIRST: tuple[Form, ...] = ("map", "sequence", "units", "volume")
"""Forms whose channels are the second axis."""


@dataclass(frozen=True)
class Axes:
    """What the axes of a layer's output are; see :func:`semlens.models.axes.find_axes`.

    Parameters
    ----------
    order
        Place of the channels.
    prefix, height, width
        Of three axes, the positions: those before the grid (class token, registers), and the
        grid; (0, 0) if there is none.
    """

    order: ChannelOrder = "auto"
    prefix: int = 0
    height: int = 0
    width: int = 0


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
        Size of the spatial map; (0, 0) if the layer has none. The map of a signal has one row,
        that of a volume its slices below each other.
    prefix
        Positions before the spatial ones (class token, registers).
    slices
        Slices that the map is made of; 1 but for volumes.
    """

    name: str
    form: Form
    components: int
    height: int = 0
    width: int = 0
    prefix: int = 0
    slices: int = 1

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in the output: 1 or -1."""
        return 1 if self.form in CHANNELS_FIRST else -1


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


def measure_layout(name: str, output: Any, axes: Axes | None = None) -> LayerLayout:
    """Determine the layout of a layer's output.

    Parameters
    ----------
    axes
        What was measured. With None, the two axes of equal size among four are the map.

    Raises
    ------
    LayerError
        If it is not a floating-point tensor with two to five axes, is empty, or the order of its
        axes is not known.
    """
    axes = axes or Axes()
    tensor = first_tensor(output)
    if tensor is None or not tensor.is_floating_point() or not 2 <= tensor.ndim <= 5:
        received = (
            "no tensor" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"
        )
        raise LayerError(
            f"Layer '{name}' returns {received}.",
            "Expected floats of shape [b c], [b t c], [b c l], [b c h w] or [b c d h w], or with "
            "the channels last.",
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
    order = axes.order
    if order == "auto":
        order = channel_order_by_proportion(shape, 1, 1) if tensor.ndim == 4 else "unknown"
    if order == "unknown":
        raise LayerError(
            f"The channels of layer '{name}', of shape {shape}, may come first or last.",
            "Expected a layer or an input size from which the axes can be determined.",
            "Pass layout='channels_first' or 'channels_last' to build, or to SubjectModel.",
        )
    last = order == "channels_last"
    if tensor.ndim == 3:
        form, (positions, channels) = "tokens" if last else "sequence", shape[1:]
        positions, channels = (positions, channels) if last else (channels, positions)
        has_grid = axes.height > 0 and positions == axes.prefix + axes.height * axes.width
        grid = (axes.height, axes.width, axes.prefix) if has_grid else (0, 0, 0)
        return LayerLayout(name, form, channels, *grid)
    if tensor.ndim == 5:
        form, (channels, slices, height, width) = (
            ("volume-last", (shape[4], *shape[1:4])) if last else ("volume", shape[1:])
        )
        return LayerLayout(name, form, channels, slices * height, width, slices=slices)
    if last:
        return LayerLayout(name, "map-last", shape[3], shape[1], shape[2])
    return LayerLayout(name, "map", shape[1], shape[2], shape[3])


def layout_of_image(name: str, output: Any, axes: Axes) -> LayerLayout:
    """Return the layout of a layer's output for one image: what a build can read.

    Raises
    ------
    LayerError
        As :func:`measure_layout`; or if the first axis is not that of the images.
    """
    tensor = first_tensor(output)
    if tensor is not None and tensor.ndim > 1 and len(tensor) != 1:
        raise LayerError(
            f"Layer '{name}' returns {list(tensor.shape)} for one image.",
            "Expected one entry per image in the first axis.",
            "Choose the block around it: layers that work on windows of an image, or take "
            "positions first, mix axes.",
        )
    return measure_layout(name, output, axes)


def zero_channels(layout: LayerLayout, values: Tensor, channels: Sequence[int]) -> Tensor:
    """Return a copy of a layer's values with some channels set to zero.

    Values have the shape [... c d h w], [... c h w], [... c l] or [... c].

    Raises
    ------
    LayerError
        If the layer does not have a channel.
    """
    check_channel(layout, max(channels, default=0))
    index = torch.tensor(list(channels), dtype=torch.int64, device=values.device)
    axis = {"volume": -4, "map": -3, "sequence": -2}.get(layout.form, -1)
    return values.index_fill(axis, index, 0)


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


def flatten(layout: LayerLayout, output: Any) -> Float32[Tensor, "b c p"]:
    """Return the output as [samples, components, positions] in float32."""
    tensor = first_tensor(output).detach()
    match layout.form:
        case "map" | "volume":
            tensor = tensor.flatten(2)
        case "map-last" | "volume-last":
            tensor = tensor.flatten(1, -2).transpose(1, 2)
        case "tokens":
            tensor = tensor.transpose(1, 2)
        case "sequence":
            pass
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
    elif readout == "mean" or layout.prefix > 0:
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
