"""From a layer's output, whatever its form, to one number per component and sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from semlens.errors import LayerError
from semlens.types import Layout, Readout

Form = Literal["map", "map-last", "tokens", "units"]
"""[b c h w], [b h w c] (Swin and its like), [b t c] and [b c]."""

KnownLayout = Layout | Literal["unknown"]
"""What :func:`semlens.models.channel_order.find_layouts` says of a layer."""


@dataclass(frozen=True)
class LayerLayout:
    """What a layer puts out: measured once, on the first batch.

    Parameters
    ----------
    name
        The layer, as in ``named_modules``.
    form
        The order of the output's axes.
    components
        Number of channels, token features or units.
    height, width
        Size of the spatial map; (0, 0) when the layer has none.
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
class Readings:
    """One batch's readouts of a layer; the leading axis of ``peak`` is sign +1, sign -1."""

    value: Float32[Tensor, "b c"]
    """The readout that sign +1 ranks by."""
    negative: Float32[Tensor, "b c"]
    """The readout that sign -1 ranks by, negated, so that the strongest is the largest."""
    peak: Float32[Tensor, "2 b c"]
    """Largest activation, and largest negated activation, over space or tokens."""
    position: Int32[Tensor, "2 b c"]
    """Flat index of each peak in the map or token row."""


def first_tensor(output: Any) -> Any:
    """Return the tensor of a module's output: itself, or the first one of a tuple or mapping."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    found = map(first_tensor, parts) if isinstance(output, tuple | list | Mapping) else ()
    return next((tensor for tensor in found if tensor is not None), None)


def measure_form(name: str, output: Any, layout: KnownLayout = "auto") -> LayerLayout:
    """Find out the form of a layer's output.

    Parameters
    ----------
    layout
        Order of four axes. With ``auto``, the map is what is square, if there is one such.

    Raises
    ------
    LayerError
        If it is no tensor of floating-point numbers with two to four axes, or the order of
        four is not known.
    """
    tensor = first_tensor(output)
    if tensor is None or not tensor.is_floating_point() or not 2 <= tensor.ndim <= 4:
        met = "nothing" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"
        raise LayerError(
            f"Layer '{name}' puts out {met}.",
            "Expected floats of shape [b c], [b t c], [b c h w] or [b h w c].",
            "Choose a layer before or after it; 'semlens layers MODEL' lists the forms.",
        )
    shape = list(tensor.shape)
    if tensor.ndim == 2:
        return LayerLayout(name, "units", shape[1])
    if tensor.ndim == 3:
        prefix, height, width = _token_grid(shape[1])
        return LayerLayout(name, "tokens", shape[2], height, width, prefix)
    known = by_proportion(shape, 1, 1) if layout == "auto" else layout
    if known == "unknown":
        raise LayerError(
            f"Layer '{name}' puts out {shape}: its channels may come first or last.",
            "Expected a layer, or an input size, that tells which axes are the map.",
            "Give layout='channels_first' or 'channels_last' to build, or to SubjectModel.",
        )
    if known == "channels_last":
        return LayerLayout(name, "map-last", shape[3], shape[1], shape[2])
    return LayerLayout(name, "map", shape[1], shape[2], shape[3])


def by_proportion(shape: Sequence[int], height: int, width: int) -> KnownLayout:
    """Say which axes are the map: those that are square, or proportioned as the images.

    Parameters
    ----------
    shape
        Of an output with four axes.
    height, width
        Of the images. Maps may be rounded up or down to whole positions.
    """

    def fits(h: int, w: int) -> bool:
        return h == w or abs(h * width - w * height) < max(height, width)

    first, last = fits(shape[2], shape[3]), fits(shape[1], shape[2])
    if first == last:
        return "unknown"
    return "channels_first" if first else "channels_last"


def _token_grid(tokens: int) -> tuple[int, int, int]:
    """Split a token count into prefix tokens and a square grid, with as few prefix as fit."""
    for prefix in range(min(tokens, 17)):
        side = math.isqrt(tokens - prefix)
        if side > 1 and side * side == tokens - prefix:
            return prefix, side, side
    return 0, 0, 0


def flatten(form: LayerLayout, output: Any) -> Float32[Tensor, "b c p"]:
    """Return the output as [samples, components, positions] in float32."""
    tensor = first_tensor(output).detach()
    match form.form:
        case "map":
            tensor = tensor.flatten(2)
        case "map-last":
            tensor = tensor.flatten(1, 2).transpose(1, 2)
        case "tokens":
            tensor = tensor.transpose(1, 2)
        case "units":
            tensor = tensor[:, :, None]
    return tensor.float()


def spatial(form: LayerLayout, output: Any) -> Float32[Tensor, "b c h w"] | None:
    """Return the spatial map without prefix tokens, or None when the layer has none."""
    if form.height == 0:
        return None
    return flatten(form, output)[:, :, form.prefix :].unflatten(2, (form.height, form.width))


def read(form: LayerLayout, output: Any, readout: Readout) -> Readings:
    """Reduce a layer's output to readouts and peaks (paper, 3.1).

    Raises
    ------
    LayerError
        If ``cls`` is asked of a layer without a class token.
    """
    flat = flatten(form, output)
    high, where_high = flat.max(dim=2)
    low, where_low = flat.min(dim=2)
    if readout == "max":
        value, negative = high, -low
    elif readout == "mean" or (form.form == "tokens" and form.prefix > 0):
        value = flat.mean(dim=2) if readout == "mean" else flat[:, :, 0].contiguous()
        negative = -value
    else:
        raise LayerError(
            f"Layer '{form.name}' has no class token (its form is {form.form}).",
            "Readout 'cls' needs tokens that start with one.",
            "Use readout 'mean' or 'max', or a transformer layer.",
        )
    return Readings(
        value,
        negative,
        torch.stack([high, -low]),
        torch.stack([where_high, where_low]).to(torch.int32),
    )
