"""The test on images that decides on an alarm: regions that match a concept, moved to others.

A contrast compares a few classes, which cannot show how far classes differ where there is nothing
to find. It proposes a class and a concept; this test, whose unit is the image, decides. In images
of the class, the region is found whose relevance for the class passes through the components that
carry the contrast (CRP); it is pasted onto images of other classes, as a swap of regions does. The
same is done for other classes, with the same components, and the class must gain more than they
do, by the margin of swaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from semlens.errors import SemlensError
from semlens.lenses.statistics.excess import excess_over_others
from semlens.lenses.swap.effect import FACTOR, MARGIN, gain_scale, swap_effect
from semlens.lenses.swap.pairs import SEED, plan_swap
from semlens.lenses.swap.parts import WORDS, paste, relevant_regions
from semlens.progress import report_progress
from semlens.store.reader import Database
from semlens.types import Component

OTHERS, OF_OTHERS = 8, 48
"""Classes to compare with, and images of other classes that get a region of each of them."""
BATCH = 32
"""Images per pass."""
TESTED = (OTHERS, OF_OTHERS, SEED, FACTOR, MARGIN)
"""The settings of the test."""


@dataclass(frozen=True)
class ImageTest:
    """What the regions do that a concept's components see.

    Parameters
    ----------
    concept
        The spurious concept that the contrast proposes.
    components
        Those that carry its contrast, in one layer.
    gain
        Mean rise of the class's logit over that with the same place of a third class's image; NaN
        if the test could not be run.
    excess
        Over the mean gain of other classes, in standard deviations of a logit.
    p_value
        Of a gain of one and a half times theirs and a third of a deviation.
    images
        Images of the class whose regions were moved; 0 if the test could not be run.
    reason
        Why it could not be run; empty if it was.
    """

    concept: str
    components: tuple[Component, ...]
    gain: float
    excess: float
    p_value: float
    images: int
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {**asdict(self), "components": [str(one) for one in self.components]}


def decide_on_images(
    database: Database, target: int, concept: str, components: Sequence[Component]
) -> ImageTest:
    """Test a class and the components of a concept; say why if there is no model or no image.

    Parameters
    ----------
    components
        Of one layer.
    """
    names = tuple(components)

    def compute() -> pd.DataFrame:
        return _gains(database, target, names)

    key = (target, *map(str, names), *TESTED)
    try:
        found = database.cached("image-test", key, compute, holding=database.model_lock).iloc[0]
    except SemlensError as error:
        nothing = float("nan")
        return ImageTest(concept, names, nothing, nothing, nothing, 0, error.value)
    gain, excess, p_value = (float(found[one]) for one in ("gain", "excess", "p_value"))
    return ImageTest(concept, names, gain, excess, p_value, int(found["images"]))


def _gains(database: Database, target: int, components: tuple[Component, ...]) -> pd.DataFrame:
    """Return a row with what the class gains, and the test's result."""
    words, layers = WORDS["region"], [components[0].layer]
    (area,) = words.sizes
    plan = plan_swap(database, [target], words.count, OTHERS, SEED, OF_OTHERS)
    effects = []
    for done, pairs in enumerate(plan.pairs):
        report_progress("testing on images", done, len(plan.pairs))
        regions = relevant_regions(
            database, pairs.donors, pairs.target, area, None, BATCH, components
        )
        effects.append(swap_effect(database, pairs, paste(regions), layers, BATCH))
    report_progress("testing on images", len(plan.pairs), len(plan.pairs))
    scale = gain_scale(effects)
    tests = excess_over_others([one.by_donor / scale for one in effects], FACTOR, MARGIN)
    own = next(i for i, pairs in enumerate(plan.pairs) if pairs.target == target)
    return pd.DataFrame(
        {
            "gain": [effects[own].gain],
            "excess": [float(tests.value[own])],
            "p_value": [float(tests.p_value[own])],
            "images": [len(np.unique(plan.pairs[own].donors))],
        }
    )
