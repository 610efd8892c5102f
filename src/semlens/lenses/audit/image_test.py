"""The test on images of a class that a contrast proposes: what parts of its images do to others.

A contrast compares classes, of which there are few, so that it cannot know how far classes differ
where there is nothing to find. It proposes; this test, whose unit is the image, decides: parts of
the class's images are moved to images of other classes, as :func:`semlens.lenses.swap.swap.swap`
does, with fewer images. It depends on no concept and is kept in the database.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from semlens.errors import SemlensError
from semlens.lenses.swap.effect import FACTOR, MARGIN
from semlens.lenses.swap.pairs import SEED, plan_swap
from semlens.lenses.swap.parts import PARTS, WORDS, Part
from semlens.lenses.swap.swap import move_part
from semlens.store.reader import Database

OTHERS, OF_OTHERS = 8, 48
"""Classes to compare with, and images that get a part of each of them. Those that get a part of the
class itself are as many as :func:`semlens.lenses.swap.swap.swap` takes."""
TESTS = sum(len(WORDS[part].sizes) for part in PARTS)
"""Tests of a class if all parts are moved; p-values are corrected for them."""
ORDER: tuple[Part, ...] = ("region", "border", "colour")
ENOUGH = 1e-3
"""No other part is moved once the corrected p-value is below this."""


@dataclass(frozen=True)
class ImageTest:
    """What moving parts of a class's images to others shows.

    Parameters
    ----------
    p_value
        The smallest of the parts, corrected for all of them; 1 if it could not be run.
    part
        The part with this p-value; None if the test could not be run.
    reason
        Why it could not be run; empty if it could.
    """

    p_value: float
    part: Part | None
    reason: str = ""

    @property
    def shown(self) -> str | None:
        """What was moved, as "the borders of its images, pasted onto other images, raise"."""
        return None if self.part is None else f"{WORDS[self.part].parts}, {WORDS[self.part].act}"


def image_test(database: Database, target: int) -> ImageTest:
    """Test a class on images; without the model or images, say why it could not be run."""

    def compute() -> pd.DataFrame:
        return _moved(database, target)

    try:
        key = (target, OTHERS, OF_OTHERS, TESTS, SEED, FACTOR, MARGIN)
        first = database.cached("image-test", key, compute).iloc[0]
    except SemlensError as error:
        return ImageTest(1.0, None, error.value)
    return ImageTest(float(first["p_value"]), first["part"])


def _moved(database: Database, target: int) -> pd.DataFrame:
    """Return the part with the smallest p-value, corrected; parts are moved until it is small."""
    best = pd.DataFrame({"part": [ORDER[0]], "p_value": [1.0]})
    for part in ORDER:
        plan = plan_swap(database, [target], WORDS[part].count, OTHERS, SEED, OF_OTHERS)
        first = move_part(database, plan, part).frame.iloc[0]
        p_value = min(1.0, TESTS * float(first["p_value"]))
        if p_value < best["p_value"].iloc[0]:
            best = pd.DataFrame({"part": [part], "p_value": [p_value]})
        if p_value < ENOUGH:
            break
    return best
