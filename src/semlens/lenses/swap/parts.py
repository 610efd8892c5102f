"""Parts of images that a swap moves: borders, the most relevant regions, and colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from semlens.errors import RecipeError
from semlens.lenses.database_engine import RulesLike, engine_of, group_masks
from semlens.models.forward import batches
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.class_relevance import class_seed, images_per_pass
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.relevance.protocols import OUTPUT
from semlens.store.reader import Database
from semlens.types import Component

BLUR = 0.05
"""Kernel of the blur before the strongest pixels are chosen, as a share of the side."""
Part = Literal["border", "region", "colour"]
PARTS: tuple[Part, ...] = get_args(Part)
Images = Float[Tensor, "b channels h w"]
Transfer = Callable[[Images, Images, slice], Images]
"""Returns images with a part of others (receivers, sources, and which of the pairs they are)."""


@dataclass(frozen=True)
class Words:
    """What is said of a part, and its usual settings.

    Parameters
    ----------
    name
        What the experiment is called.
    parts, act
        What is moved to other images, and what that does: "the borders of its images", "pasted
        onto other images, raise".
    short, moved
        The same in a sentence on one class: "Borders", "pasted onto".
    size, of
        What its size is, in a plot and in a sentence: "width" of the "border".
    relies, found
        What a detected class relies on, and what detected classes rely on.
    limits
        What a detection does not show.
    sizes, count
        Usual sizes, as shares, and number of images of other classes per class.
    bound, inclusive
        Largest size, and whether a size may equal it.
    """

    name: str
    parts: str
    act: str
    short: str
    moved: str
    size: str
    of: str
    relies: str
    found: str
    limits: str
    sizes: tuple[float, ...]
    count: int
    bound: float
    inclusive: bool = True


WORDS: Mapping[str, Words] = MappingProxyType(
    {
        "border": Words(
            "border swap", "the borders of its images", "pasted onto other images, raise",
            "Borders", "pasted onto", "width", "border", "its surroundings",
            "their surroundings",
            "This does not show marks in the middle of an image, which are not in the border. A "
            "detection says that the surroundings carry the class, not that this is wrong: "
            "aircraft are in the sky.",
            (0.15, 0.25), 64, 0.5, inclusive=False,
        ),
        "region": Words(
            "region swap", "the most relevant small regions of its images",
            "pasted onto other images, raise", "The most relevant regions", "pasted onto", "area",
            "area", "a small region", "a small region",
            "A detection says that a small part of the image carries the class, not that it is a "
            "mark: look at the images.",
            (0.05,), 128, 0.5,
        ),
        "colour": Words(
            "colour swap", "the colours of its images", "transferred to other images, raise",
            "Colours", "transferred to", "strength", "strength", "colours",
            "the colours of their images",
            "A detection says that the colours carry the class, not that this is wrong: leaves "
            "are green.",
            (1.0,), 64, 1.0,
        ),
    }
)  # fmt: skip


def check_size(part: Part | None, size: float | None) -> None:
    """Check that a size is one of the part.

    Raises
    ------
    RecipeError
        If it is out of bounds, or no part is named.
    """
    if size is None:
        return
    if part is None:
        raise RecipeError(
            f"The size {size:g} was given without a part.",
            f"Expected one of {', '.join(PARTS)} with it: each part has sizes of its own.",
            "Name the part, or leave out the size.",
        )
    words = WORDS[part]
    if size > words.bound or (size == words.bound and not words.inclusive):
        limit = f"{'at most' if words.inclusive else 'below'} {words.bound:g}"
        raise RecipeError(
            f"The size of the part '{part}' is {size:g}.",
            f"Expected a {words.size} above 0 and {limit}.",
            "Give another size.",
        )


def model_inputs(database: Database, samples: np.ndarray) -> Float[Tensor, "b channels h w"]:
    """Return preprocessed samples as one batch."""
    stream = batches(database.model, database.images.read, samples.tolist(), len(samples), None)
    return next(stream)


def paste(regions: Bool[Tensor, "n h w"]) -> Transfer:
    """Return the transfer of regions."""

    def transfer(receivers: Images, sources: Images, part: slice) -> Images:
        return torch.where(regions[part, None].to(receivers.device), sources, receivers)

    return transfer


def recolour(strength: float) -> Transfer:
    """Return the transfer of a share of the difference in colour."""

    def transfer(receivers: Images, sources: Images, part: slice) -> Images:
        return receivers + strength * (transfer_colours(receivers, sources) - receivers)

    return transfer


def transfer_colours(
    receivers: Float[Tensor, "b channels h w"], sources: Float[Tensor, "b channels h w"]
) -> Float[Tensor, "b channels h w"]:
    """Return images whose channels have the means and standard deviations of other images.

    Values stay within the range of both batches: there are no colours beyond white.
    """
    mean, target_mean = (x.mean((2, 3), keepdim=True) for x in (receivers, sources))
    spread, target_spread = (x.std((2, 3), keepdim=True) for x in (receivers, sources))
    flat = spread < 1e-6
    scale = (target_spread / spread.masked_fill(flat, 1)).masked_fill(flat, 0)
    moved = (receivers - mean) * scale + target_mean
    both = torch.cat([receivers, sources])
    low, high = both.amin((0, 2, 3), keepdim=True), both.amax((0, 2, 3), keepdim=True)
    return moved.clamp(low, high)


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
    through: Sequence[Component] = (),
) -> Bool[Tensor, "n h w"]:
    """Return where the relevance of a class is largest in each image, in the model's input.

    Parameters
    ----------
    target
        Logit of the class.
    area
        Size of each region, as a share of the image.
    through
        Components of one layer: only the relevance that passes through them counts (CRP).

    Raises
    ------
    ModelError
        If the model has no logits.
    RelevanceError
        If the rules do not cover the model.
    """
    regions: list[Tensor] = []
    samples, positions = np.unique(samples, return_inverse=True)
    for start in range(0, len(samples), batch_size):
        inputs = model_inputs(database, samples[start : start + batch_size])
        heat = _class_heat(database, inputs, target, rules, through)
        regions.append(strongest_pixels(heat, area))
    return torch.cat(regions)[torch.from_numpy(positions)]


def strongest_pixels(heat: Float[Tensor, "n h w"], area: float) -> Bool[Tensor, "n h w"]:
    """Return the pixels with the largest values, a share of each map; none that is not positive."""
    height, width = heat.shape[1:]
    smooth = upsample_and_blur(heat, height, width, BLUR).flatten(1)
    count = max(1, round(area * smooth.shape[1]))
    largest = smooth.topk(count, dim=1)
    chosen = torch.zeros_like(smooth, dtype=torch.bool)
    return chosen.scatter_(1, largest.indices, largest.values > 0).view(heat.shape)


def _class_heat(
    database: Database, inputs: Tensor, target: int, rules: RulesLike, through: Sequence[Component]
) -> Float[Tensor, "n h w"]:
    """Return the relevance of each pixel for a class, summed over colours."""
    layers = list({component.layer for component in through})
    engine = engine_of(database, inputs, layers, rules)
    size = images_per_pass(engine)
    maps = torch.zeros(len(inputs), *inputs.shape[-2:])
    for start in range(0, len(inputs), size):
        trace = engine.trace(inputs[start : start + size])
        targets = torch.full((1, len(trace.inputs)), target)
        seeds = {OUTPUT: class_seed(trace, targets)}
        for layer in layers:
            entry = database.layer(layer)
            relevance = trace.backward(seeds, layers, heatmaps=False).layers[layer]
            members = [database.row(component) - entry.first for component in through]
            masks = group_masks(entry, trace.values[layer].detach(), [members])
            seeds = {layer: BackwardSignal(relevance * masks)}
        heat = trace.backward(seeds).heatmaps
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
