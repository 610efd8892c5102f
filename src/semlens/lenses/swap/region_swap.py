"""Does a class rely on a small mark? Its most relevant regions, pasted onto other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from jaxtyping import Float64

from semlens.lens import lens
from semlens.lenses.classes import class_name
from semlens.lenses.database_engine import RulesLike
from semlens.lenses.result import Chart
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
from semlens.lenses.swap.regions import coverage, overlaps, relevant_regions
from semlens.lenses.swap.swap_result import Swap
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database

AREA = 0.05
"""Size of a region, as a share of the image: of a mark rather than of an object."""
COUNT = 128
"""Images of other classes, per class."""


@dataclass(frozen=True, eq=False, repr=False)
class RegionSwap(Swap):
    """How much the most relevant regions of each class's images raise its logit on other images.

    The columns of ``frame`` are ``class``, ``logit``, ``area``, ``gain`` (mean over the pairs, in
    units of the logit), ``p_value``, ``adjusted`` (Bonferroni over all rows), ``detected`` and
    ``overlap``: the share of a region that lies in the region of another image of the class, minus
    the same for images of other classes.

    Parameters
    ----------
    coverage
        By class, the share of its images whose region contains each pixel of the input.
    """

    name = "region swap"
    parts = "the most relevant small regions of its images"
    act = "pasted onto other images, raise"
    size = "area"
    found = "a small region"

    coverage: Mapping[str, Float64[np.ndarray, "h w"]] = field(default_factory=dict, kw_only=True)

    def plot(self) -> Chart:
        """Draw the gain of every class, where its regions lie, and images of the first one."""
        from semlens.draw.swap_plots import swap_plot

        return swap_plot(self.frame, self.size, self.summary, self.pasted, self.coverage)


@lens("model", "images", group="Audit", example="region-swap r18.semlens --save region-swap.png")
def region_swap(
    database: Database,
    target: TestedClasses = None,
    *,
    area: Annotated[
        float, setting("Size of a region, as a share of the image.", gt=0, le=0.5)
    ] = AREA,
    rules: RulesLike = None,
    count: Count = COUNT,
    reference: References = REFERENCE,
    seed: Seed = SEED,
    batch_size: BatchSize = 32,
) -> RegionSwap:
    """Test whether a class relies on a small mark, wherever it is in the image.

    The 5 % of the pixels that are most relevant for the class are cut out of its images and
    pasted at the same place onto images of other classes. The gain is the mean rise of the class's
    logit over that with the same pixels of a third class. It is tested against the gains of the
    other classes, with the heavy tail of a Student's t of 4 degrees of freedom: such a small part
    of an object says little, but a mark says all. No embedder and no words are needed.

    Parameters
    ----------
    target
        One class, or several.

    Raises
    ------
    DataError
        If too few classes have images.
    RelevanceError
        If there is no such class, or the rules do not cover the model.
    ModelError
        If the model has no logits.
    """  # fmt: skip
    plan = plan_swap(database, target, count, reference, seed)
    regions = {}
    for done, pairs in enumerate(plan.pairs, start=1):
        regions[pairs.target, area] = relevant_regions(
            database, pairs.donors, pairs.target, area, rules, batch_size
        )
        report_progress("finding relevant regions", done, len(plan.pairs))
    counts = [pairs.different_donors for pairs in plan.pairs]
    maps = np.stack(
        [
            coverage(regions[pairs.target, area][:different])
            for pairs, different in zip(plan.pairs, counts, strict=True)
        ]
    )
    transfers = {key: paste(one) for key, one in regions.items()}
    frame, components = measure_swaps(database, plan, [area], "area", transfers, batch_size)
    targets = [pairs.target for pairs in plan.pairs]
    overlap = dict(zip(targets, overlaps(maps, np.array(counts, float)), strict=True))
    frame = frame.assign(overlap=[overlap[one] for one in frame["logit"]])
    first = next(pairs for pairs in plan.pairs if pairs.target == frame["logit"].iloc[0])
    result = RegionSwap(
        frame, components, count, plan.classes,
        pasted=pasted_pictures(database, first, transfers[first.target, area]),
        coverage=dict(zip([class_name(database, one) for one in targets], maps, strict=True)),
    )  # fmt: skip
    if rules is None and (area, count, reference, seed) == (AREA, COUNT, REFERENCE, SEED):
        keep_swap(database, result)
    return result
