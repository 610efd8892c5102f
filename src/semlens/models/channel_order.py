"""Whether a layer's maps have their channels first or last, where four axes leave it open."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor, nn

from semlens.models.activations import KnownLayout, by_proportion, first_tensor
from semlens.models.hooks import FAILURES, evaluating, find_layer, reading_layers
from semlens.types import Layout

_FIRST = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d,
    nn.GroupNorm, nn.LocalResponseNorm, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.Dropout2d, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
"""Modules that take and give [b c h w]."""


@torch.inference_mode()
def find_layouts(
    module: nn.Module, batch: Tensor, names: Collection[str], layout: Layout = "auto"
) -> dict[str, KnownLayout]:
    """Find out in which order some layers' axes stand.

    A module's type decides where it can (a convolution, a dense layer), then ``layout``. Else
    images of double width are run, which changes a map's width and nothing else; and for a
    model that takes one size only, the map with the images' proportions is the map.

    Parameters
    ----------
    batch
        float[b 3 h w], as the model takes it.
    layout
        Holds for layers whose own type leaves it open.

    Returns
    -------
    dict
        By layer: ``unknown`` where nothing tells, and ``auto`` without four axes.

    Raises
    ------
    LayerError
        If the model has no such layer.
    """
    shapes = _shapes(module, batch, names)
    found: dict[str, KnownLayout] = dict.fromkeys(names, "auto")
    maps = [name for name, shape in shapes.items() if len(shape) == 4]
    found.update({name: _of_type(find_layer(module, name)) or layout for name in maps})
    open_ = [name for name in maps if found[name] == "auto"]
    if open_:
        wide = _shapes(module, torch.cat([batch, batch], dim=-1), open_, whole=False)
        for name in open_:
            grown = _widened(shapes[name], wide.get(name, ()))
            found[name] = grown or by_proportion(shapes[name], *batch.shape[-2:])
    return found


def _of_type(module: nn.Module) -> Literal["channels_first", "channels_last"] | None:
    if isinstance(module, _FIRST):
        return "channels_first"
    # subclasses of layer norm may take channels first
    plain = type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    return "channels_last" if plain or isinstance(module, nn.Linear) else None


def _shapes(
    module: nn.Module, batch: Tensor, names: Collection[str], *, whole: bool = True
) -> dict[str, Sequence[int]]:
    """Run a batch and return the shapes of outputs; if not ``whole``, as far as the pass goes."""
    found: dict[str, Sequence[int]] = {}

    def seen(name: str, output: object) -> None:
        if (tensor := first_tensor(output)) is not None:
            found[name] = tensor.shape

    with (
        suppress(*(() if whole else FAILURES)),
        evaluating(module),
        reading_layers(module, names, seen),
    ):
        module(batch)
    return found


def _widened(shape: Sequence[int], wide: Sequence[int]) -> KnownLayout | None:
    """Say which axis of a map has grown with the width of the images."""
    if len(wide) != 4:
        return None
    grown = [axis for axis in range(4) if shape[axis] != wide[axis]]
    known: dict[int, KnownLayout] = {3: "channels_first", 2: "channels_last"}
    return known.get(grown[0]) if len(grown) == 1 else None
