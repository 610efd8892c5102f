"""The regions of images that a class's relevance points at, and whether they sit still."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from semlens.lenses.database_engine import RulesLike, engine_of
from semlens.lenses.swap.effect import model_inputs
from semlens.relevance.class_relevance import class_seed, images_per_pass
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.relevance.protocols import OUTPUT
from semlens.store.reader import Database

BLUR = 0.05
"""Kernel of the blur before the strongest pixels are chosen, as a share of the side."""


def border_region(height: int, width: int, share: float) -> Bool[Tensor, "h w"]:
    """Return the outer ring of an image; ``share`` is its width as a share of the sides."""
    region = torch.ones(height, width, dtype=torch.bool)
    y, x = round(share * height), round(share * width)
    region[y : height - y, x : width - x] = False
    return region


def relevant_regions(
    database: Database,
    samples: np.ndarray,
    target: int,
    area: float,
    rules: RulesLike = None,
    batch_size: int = 32,
) -> Bool[Tensor, "n h w"]:
    """Return where the relevance of a class is largest in each image, in the model's input.

    Parameters
    ----------
    target
        Logit of the class.
    area
        Size of each region, as a share of the image.

    Raises
    ------
    ModelError
        If the model has no logits.
    RelevanceError
        If the rules do not cover the model.
    """
    regions: list[Tensor] = []
    for start in range(0, len(samples), batch_size):
        inputs = model_inputs(database, samples[start : start + batch_size])
        regions.append(strongest_pixels(_class_heat(database, inputs, target, rules), area))
    return torch.cat(regions)


def strongest_pixels(heat: Float[Tensor, "n h w"], area: float) -> Bool[Tensor, "n h w"]:
    """Return the pixels with the largest values, a share of each map; none that is not positive."""
    height, width = heat.shape[1:]
    smooth = upsample_and_blur(heat, height, width, BLUR).flatten(1)
    count = max(1, round(area * smooth.shape[1]))
    largest = smooth.topk(count, dim=1)
    chosen = torch.zeros_like(smooth, dtype=torch.bool)
    return chosen.scatter_(1, largest.indices, largest.values > 0).view(heat.shape)


def _class_heat(
    database: Database, inputs: Tensor, target: int, rules: RulesLike
) -> Float[Tensor, "n h w"]:
    """Return the relevance of each pixel for a class, summed over colours."""
    engine = engine_of(database, inputs, [], rules)
    size = images_per_pass(engine)
    maps = torch.zeros(len(inputs), *inputs.shape[-2:])
    for start in range(0, len(inputs), size):
        trace = engine.trace(inputs[start : start + size])
        targets = torch.full((1, len(trace.inputs)), target)
        heat = trace.backward({OUTPUT: class_seed(trace, targets)}).heatmaps
        if heat is not None:
            maps[start : start + size] = heat[0].detach().cpu().float()
    return maps


def coverage(regions: Bool[Tensor, "n h w"]) -> Float64[np.ndarray, "h w"]:
    """Return for each pixel the share of images whose region contains it."""
    return regions.double().mean(0).numpy()


def overlaps(
    maps: Float64[np.ndarray, "classes h w"], counts: Float64[np.ndarray, " classes"]
) -> Float64[np.ndarray, " classes"]:
    """Return how much more the regions of a class coincide with each other than with the others'.

    For two images of the class, the share of one region that lies in the other, on average; minus
    the same for an image of the class and one of another class. A mark sits still, objects move.

    Parameters
    ----------
    maps
        Result of :func:`coverage` for each class.
    counts
        Images behind each map.
    """
    flat = maps.reshape(len(maps), -1)
    area = flat.sum(1)
    common = flat @ flat.T
    # an image does not count against itself: sum over i != j of |A_i & A_j|
    own = (counts * np.diag(common) - area) / np.maximum(counts - 1, 1)
    other = (common.sum(1) - np.diag(common)) / max(len(maps) - 1, 1)
    return np.divide(own - other, area, out=np.zeros(len(maps)), where=area > 0)
