"""Does a class rely on a part of its images? Borders, small regions or colours, moved to others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Float64

from semlens.lens import lens
from semlens.lenses.arguments import Classes
from semlens.lenses.classes import class_name
from semlens.lenses.database_engine import RulesLike
from semlens.lenses.swap.effect import Transfers, measure_swaps, pasted_pictures
from semlens.lenses.swap.kept import keep_swap, kept_swap
from semlens.lenses.swap.pairs import REFERENCE, SEED, SwapPlan, plan_swap
from semlens.lenses.swap.parts import (
    PARTS,
    WORDS,
    Part,
    border_region,
    check_size,
    coverage,
    overlaps,
    paste,
    recolour,
    relevant_regions,
)
from semlens.lenses.swap.swap_result import Swap, corrected
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database


@lens(
    "model", "images", group="Audit", report="Swaps: does the class rely on parts of its images?",
    kept=kept_swap, example="swap r18.semlens --part border --save swap.png",
)  # fmt: skip
def swap(
    database: Database,
    target: Classes = None,
    *,
    part: Annotated[
        Part | None,
        setting("What is moved to other images: border, region or colour [all three]."),
    ] = None,
    size: Annotated[
        float | None,
        setting(
            "Size of the part: width of the border as a share of the sides [0.15 and 0.25], area "
            "of a region as a share of the image [0.05], share of the difference in colour [1].",
            gt=0,
            le=1,
        ),
    ] = None,
    rules: RulesLike = None,
    count: Annotated[
        int | None, setting("Images of other classes, per class [64; 128 for regions].", ge=8)
    ] = None,
    reference: Annotated[
        int,
        setting(
            "Other classes to compare with, or classes to test if none is named, at most.", ge=5
        ),
    ] = REFERENCE,
    seed: Annotated[int, setting("Which classes and images are drawn.", ge=0)] = SEED,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> Swap:
    """Test whether a class relies on its surroundings, on a small mark, or on colours.

    A part of images of the class is moved to images of other classes: their borders are pasted;
    the 5 % of the pixels that are most relevant for the class are pasted at the same place; or the
    mean and the spread of each colour channel are transferred (Reinhard et al. 2001). The gain is
    the mean rise of the class's logit over that with the part of a third class. It is tested, over
    images, whether it is more than one and a half times the gain of the other classes, plus a third
    of a standard deviation of a logit on images of other classes. No embedder and no words are
    needed, so that artefacts are found which an embedder does not see. Without a target, at most
    ``reference`` classes are tested.

    Raises
    ------
    DataError
        If too few classes have images.
    RecipeError
        If the size is not one of the part.
    RelevanceError
        If there is no such class, or the rules do not cover the model.
    ModelError
        If the model has no logits.
    """  # fmt: skip
    check_size(part, size)
    parts = PARTS if part is None else (part,)
    made: list[Swap] = []
    for one in parts:
        plan = plan_swap(database, target, count or WORDS[one].count, reference, seed)
        made.append(_swap(database, plan, one, size, rules, batch_size))
    result = _joined(made)
    counts = all(count in (None, WORDS[one].count) for one in parts)
    if counts and size is None and rules is None and (reference, seed) == (REFERENCE, SEED):
        keep_swap(database, result)
    return result


def _swap(
    database: Database,
    plan: SwapPlan,
    part: Part,
    size: float | None,
    rules: RulesLike,
    batch_size: int,
) -> Swap:
    """Move one part."""
    sizes = WORDS[part].sizes if size is None else (size,)
    transfers, maps = _transfers(database, plan, part, sizes, rules, batch_size)
    frame, components = measure_swaps(database, plan, part, sizes, transfers, batch_size)
    if maps:
        counts = np.array([pairs.different_donors for pairs in plan.pairs], float)
        shares = dict(zip(maps, overlaps(np.stack([*maps.values()]), counts), strict=True))
        frame = frame.assign(overlap=[shares[logit] for logit in frame["logit"]])
    first = frame.iloc[0]
    pairs = next(pairs for pairs in plan.pairs if pairs.target == first["logit"])
    pasted = pasted_pictures(database, pairs, transfers[first["logit"], first["size"]])
    return Swap(
        frame, components, {part: len(pairs.receivers)}, plan.classes, {part: pasted},
        {class_name(database, logit): one for logit, one in maps.items()},
    )  # fmt: skip


def _transfers(
    database: Database,
    plan: SwapPlan,
    part: Part,
    sizes: tuple[float, ...],
    rules: RulesLike,
    batch_size: int,
) -> tuple[Transfers, Mapping[int, Float64[np.ndarray, "h w"]]]:
    """Return what is exchanged by class and size, and where the regions of each class lie."""
    if part != "region":
        if part == "border":
            height, width = database.model.example.shape[-2:]
            borders = {size: border_region(height, width, size) for size in sizes}
            return {
                (pairs.target, size): paste(border.expand(len(pairs.receivers), -1, -1))
                for pairs in plan.pairs
                for size, border in borders.items()
            }, {}
        of_size = {size: recolour(size) for size in sizes}
        return {(pairs.target, size): of_size[size] for pairs in plan.pairs for size in sizes}, {}
    (area,) = sizes
    transfers, maps = {}, {}
    for done, pairs in enumerate(plan.pairs, start=1):
        regions = relevant_regions(database, pairs.donors, pairs.target, area, rules, batch_size)
        transfers[pairs.target, area] = paste(regions)
        maps[pairs.target] = coverage(regions[: pairs.different_donors])
        report_progress("finding relevant regions", done, len(plan.pairs))
    return transfers, maps


def _joined(made: list[Swap]) -> Swap:
    """Return the swaps of several parts as one, corrected for all of their tests."""
    return Swap(
        corrected(pd.concat([one.frame for one in made])),
        pd.concat([one.components for one in made], ignore_index=True),
        {part: count for one in made for part, count in one.images.items()},
        made[0].classes,
        {part: pairs for one in made for part, pairs in one.pasted.items()},
        {name: shares for one in made for name, shares in one.coverage.items()},
    )
