"""Activation maps of the components of a database, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from semlens.errors import LayerError
from semlens.models.activations import measure_layout, spatial_map
from semlens.models.forward import ImageReader, batches
from semlens.models.hooks import run_layers
from semlens.relevance.heatmap_boxes import smoothing_matrix
from semlens.store.reader import Database

Maps = dict[str, Float32[Tensor, "b rows h w"]]
"""Maps of a batch by layer, one for each component of the database."""


def layers_with_maps(database: Database, layers: str | Sequence[str] | None) -> list[str]:
    """Return the names of some layers, or of all that have maps.

    Raises
    ------
    LayerError
        If a named layer has no map, or none has.
    """
    names = database.layer_names(layers)
    without = [name for name in names if database.layer(name).height == 0]
    if layers is None:
        names = [name for name in names if name not in without]
    if (without and layers is not None) or not names:
        raise LayerError(
            f"Layer '{without[0]}' has no map: its output does not say where in the image.",
            "Expected a convolutional layer, or tokens on a grid.",
            "Choose a layer before it.",
        )
    return names


def stream_maps(
    database: Database,
    reader: ImageReader,
    samples: Int64[np.ndarray, " n"],
    layers: Sequence[str],
    batch_size: int,
    stage: str | None,
) -> Iterator[tuple[slice, Maps]]:
    """Yield the maps of some samples in batches, and which of the samples they are.

    If both signs of a layer are components, the negated maps follow.

    Raises
    ------
    LayerError
        If an activation is not finite.
    """
    model = database.model
    orders = model.axes(layers)

    def read(name: str, output: Any) -> Tensor:
        maps = spatial_map(measure_layout(name, output, orders[name]), output)
        if maps is None or not bool(torch.isfinite(maps).all()):
            raise LayerError(
                f"Layer '{name}' has activations that are not finite.",
                "Expected finite numbers, since maps are interpolated.",
                "Leave the layer out, or the images that cause it.",
            )
        entry = database.layer(name)
        return torch.cat([maps, -maps], 1) if entry.rows > entry.channels else maps.clone()

    done = 0
    for batch in batches(model, reader, samples.tolist(), batch_size, stage):
        maps = run_layers(model.module, batch, layers, read, stop_early=True)
        yield slice(done, done + len(batch)), maps
        done += len(batch)


def upsampled(
    maps: Float32[Tensor, "... h w"], grid: tuple[int, int]
) -> Float32[Tensor, "... height width"]:
    """Resample maps to a grid, bilinearly (corners not aligned)."""
    rows, columns = (
        smoothing_matrix(cells, size, 1).to(maps.device)
        for cells, size in zip(maps.shape[-2:], grid, strict=True)
    )
    return rows @ maps @ columns.T
