"""Where a component responds in the whole image of each of its examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8

from semlens.draw.heatmap_mask import project_heatmap
from semlens.lenses.database_engine import engine_of
from semlens.progress import report_progress
from semlens.relevance.conditional_heatmaps import conditional_heatmaps
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.store.reader import Database
from semlens.types import Box

SIDE = 96
"""Longest side of a stored heatmap, in cells."""
BATCH = 8
"""Images in one pass of the model."""


@dataclass(frozen=True, eq=False)
class ExampleHeatmaps:
    """Heatmaps of a component's examples, strongest first, each over the whole image.

    Parameters
    ----------
    heat
        uint8[h w] per example, from 0 to 255 of its maximum; evidence against is 0.
    """

    heat: tuple[UInt8[np.ndarray, "_ _"], ...]


def example_heatmaps(database: Database, row: int) -> ExampleHeatmaps:
    """Compute conditional relevance (CRP) of a component on its examples; kept in the database.

    Relevance starts at the component's largest activation and is propagated to the pixels, as for
    crops (paper, H.1).

    Raises
    ------
    ModelError, StaleError
        If the model cannot be loaded, or is another one.
    RelevanceError
        If the rules do not cover the model.
    DataError, ImageError
        If an image cannot be read.
    """
    component, manifest = database.component(row), database.manifest
    key = [
        str(component), *database.digests(component.layer), manifest.model.fingerprint,
        manifest.recipe.rules, manifest.recipe.crop_blur, SIDE,
    ]  # fmt: skip

    def missing() -> pd.DataFrame:
        raise _MissingError

    try:
        frame = database.cached("heatmaps", key, missing)
    except _MissingError:
        # not under the lock of the cache, which other questions wait for
        heat = _compute(database, row)
        columns = {
            "height": [one.shape[0] for one in heat],
            "heat": [one.tobytes() for one in heat],
        }
        computed = pd.DataFrame(columns)
        frame = database.cached("heatmaps", key, lambda: computed)
    return ExampleHeatmaps(
        tuple(
            np.frombuffer(cells, np.uint8).reshape(height, -1)
            for height, cells in zip(frame["height"], frame["heat"], strict=True)
        )
    )


class _MissingError(Exception):
    """The heatmaps of a component are not in the database."""


def _compute(database: Database, row: int) -> list[UInt8[np.ndarray, "h w"]]:
    component, model = database.component(row), database.model
    examples, recipe = database.examples_of(row), database.manifest.recipe
    geometry = model.geometry()
    heat: list[np.ndarray] = []
    for start in range(0, len(examples), BATCH):
        report_progress("computing heatmaps", start, len(examples))
        images = [database.images.read(one.sample) for one in examples[start : start + BATCH]]
        inputs = model.batch([model.prepare(image) for image in images])
        engine = engine_of(database, inputs, database.layers)
        count = len(images)
        maps = conditional_heatmaps(
            engine, inputs, component.layer, torch.arange(count),
            torch.full((count,), component.index), torch.full((count,), component.sign),
            position=torch.zeros(count, dtype=torch.int64) if recipe.readout == "cls" else None,
        )  # fmt: skip
        high, wide = inputs.shape[-2:]
        blurred = upsample_and_blur(
            maps.float(), high, wide, recipe.crop_blur, (model.slices, model.slices)
        )
        for image, one in zip(images, blurred.detach().cpu().numpy(), strict=True):
            scale = SIDE / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            whole = Box(0, 0, image.width, image.height)
            heat.append(_cells(project_heatmap(one, geometry(*image.size), whole, size)))
    report_progress("computing heatmaps", len(examples), len(examples))
    return heat


def _cells(heat: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    positive = np.maximum(heat, 0)
    return (255 * positive / max(float(positive.max()), 1e-12)).round().astype(np.uint8)
