"""Does a class rely on the colours of its images? They are transferred to other images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from semlens.lens import lens
from semlens.lenses.swap.kept_swaps import keep_swap
from semlens.lenses.swap.measure import measure_swaps, pasted_pictures
from semlens.lenses.swap.pairs import (
    REFERENCE,
    SEED,
    BatchSize,
    Count,
    References,
    Seed,
    TestedClasses,
    plan_swap,
)
from semlens.lenses.swap.swap_result import Swap
from semlens.settings import setting
from semlens.store.reader import Database

COUNT = 64
"""Images of other classes, per class."""


@dataclass(frozen=True, eq=False, repr=False)
class ColourSwap(Swap):
    """How much the colours of each class's images raise the class's logit on other images.

    The columns of ``frame`` are ``class``, ``logit``, ``strength``, ``gain`` (mean over the pairs,
    in units of the logit), ``p_value``, ``adjusted`` (Bonferroni over all rows) and ``detected``.
    """

    name = "colour swap"
    parts = "the colours of its images"
    act = "transferred to other images, raise"
    size = "strength"
    found = "the colours of their images"


@lens("model", "images", group="Audit", example="colour-swap r18.semlens --save colour-swap.png")
def colour_swap(
    database: Database,
    target: TestedClasses = None,
    *,
    strength: Annotated[
        float, setting("Share of the difference in colour that is transferred.", gt=0, le=1)
    ] = 1.0,
    count: Count = COUNT,
    reference: References = REFERENCE,
    seed: Seed = SEED,
    batch_size: BatchSize = 32,
) -> ColourSwap:
    """Test whether a class relies on the colours of its images: a cast, a stain, a lighting.

    Images of other classes get the mean and the spread of each colour channel from images of the
    class (Reinhard et al. 2001, in the model's channels). The gain is the mean rise of the class's
    logit over that with colours from a third class. It is tested against the gains of the other
    classes, with the heavy tail of a Student's t of 4 degrees of freedom. No embedder and no words
    are needed.

    Parameters
    ----------
    target
        One class, or several.

    Raises
    ------
    DataError
        If too few classes have images.
    RelevanceError
        If there is no such class.
    ModelError
        If the model has no logits.
    """  # fmt: skip
    plan = plan_swap(database, target, count, reference, seed)

    def transfer(
        receivers: Float[Tensor, "b 3 h w"], sources: Float[Tensor, "b 3 h w"], part: slice
    ) -> Float[Tensor, "b 3 h w"]:
        return receivers + strength * (transfer_colours(receivers, sources) - receivers)

    transfers = {(pairs.target, strength): transfer for pairs in plan.pairs}
    frame, components = measure_swaps(database, plan, [strength], "strength", transfers, batch_size)
    first = next(pairs for pairs in plan.pairs if pairs.target == frame["logit"].iloc[0])
    pasted = pasted_pictures(database, first, transfer)
    result = ColourSwap(frame, components, count, plan.classes, pasted=pasted)
    if (strength, count, reference, seed) == (1.0, COUNT, REFERENCE, SEED):
        keep_swap(database, result)
    return result


def transfer_colours(
    receivers: Float[Tensor, "b 3 h w"], sources: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 h w"]:
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
