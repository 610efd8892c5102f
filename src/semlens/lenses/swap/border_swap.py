"""Does a class rely on what surrounds its objects? Borders of its images, pasted onto others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from semlens.lens import lens
from semlens.lenses.swap.effect import paste
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
from semlens.lenses.swap.regions import border_region
from semlens.lenses.swap.swap_result import Swap
from semlens.settings import setting
from semlens.store.reader import Database

WIDTHS = (0.15, 0.25)
"""Widths of the border, as shares of the image's sides."""
COUNT = 64
"""Images of other classes, per class."""


@dataclass(frozen=True, eq=False, repr=False)
class BorderSwap(Swap):
    """How much the borders of each class's images raise the class's logit on other images.

    The columns of ``frame`` are ``class``, ``logit``, ``width``, ``gain`` (mean over the pairs,
    in units of the logit), ``p_value``, ``adjusted`` (Bonferroni over all rows) and ``detected``.
    """

    name = "border swap"
    parts = "the borders of its images"
    act = "pasted onto other images, raise"
    size = "width"
    found = "their surroundings"


@lens("model", "images", group="Audit", example="border-swap r18.semlens --save border-swap.png")
def border_swap(
    database: Database,
    target: TestedClasses = None,
    *,
    width: Annotated[
        float | None,
        setting("Width of the border, as a share of the sides [0.15 and 0.25].", gt=0, lt=0.5),
    ] = None,
    count: Count = COUNT,
    reference: References = REFERENCE,
    seed: Seed = SEED,
    batch_size: BatchSize = 32,
) -> BorderSwap:
    """Test whether a class relies on what surrounds its objects.

    The border of images of the class is pasted onto images of other classes. The gain is the
    mean rise of the class's logit over that with a border from a third class. It is tested
    against the gains of the other classes, with the heavy tail of a Student's t of 4 degrees of
    freedom. No embedder and no words are needed, so that artefacts are found which an embedder
    does not see. For a mark in the middle of the image see ``db.region_swap``.

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
    height, side = database.model.example.shape[-2:]
    widths = WIDTHS if width is None else (width,)
    borders = {
        share: paste(border_region(height, side, share).expand(count, -1, -1)) for share in widths
    }
    transfers = {(pairs.target, share): borders[share] for pairs in plan.pairs for share in widths}
    frame, components = measure_swaps(database, plan, widths, "width", transfers, batch_size)
    first = frame.iloc[0]
    pairs = next(one for one in plan.pairs if one.target == first["logit"])
    pasted = pasted_pictures(database, pairs, borders[first["width"]])
    result = BorderSwap(frame, components, count, plan.classes, pasted=pasted)
    if width is None and (count, reference, seed) == (COUNT, REFERENCE, SEED):
        keep_swap(database, result)
    return result
