"""Alarms where there is nothing to find, and where there is: rates and power side by side.

The null is the worst that still counts as nothing to find: one class lies at the margin. Values
are from a family of distributions, of images or of classes; all have mean 0 and deviation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom, false_discovery_control

from benchmarks.cases.calibration.rates import LEVEL, rate
from semlens.lenses.audit.class_contrast import compare_classes
from semlens.lenses.audit.image_test import OF_OTHERS, OTHERS, TESTS
from semlens.lenses.statistics.excess import excess_over_others
from semlens.lenses.statistics.separation import near_duplicates, separate
from semlens.lenses.swap.effect import FACTOR, MARGIN
from semlens.lenses.swap.parts import WORDS

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _unequal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw normal values; the first class has three times the spread."""
    values = rng.normal(size=shape)
    values[0] *= 3
    return values


FAMILY: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "t with 3 d.f.": lambda rng, shape: rng.standard_t(3, size=shape) / np.sqrt(3),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "falling exponential": lambda rng, shape: 1 - rng.exponential(size=shape),
    "one class with three times the spread": _unequal,
}
CLASSES = (5, 12, 30)
IMAGES = 64
USUAL = 0.3
"""Gain of a class without an artefact, in standard deviations of its logit."""
BEYOND = 0.75
"""What an artefact adds beyond the margin, likewise."""
LIST = 22
CONTRAST = 8
"""Contrast of an artefact, in standard deviations of the classes' contrasts."""


@dataclass(frozen=True)
class Alarm:
    """How often any class raises the alarm, without an artefact and the artefact's class with one.

    ``rate`` and ``power`` hold whether it was so, draw by draw; what is only a proposal is not held
    to the level.
    """

    question: str
    family: str
    classes: int
    rate: np.ndarray
    power: np.ndarray
    decides: bool = True

    def record(self, cells: int) -> dict[str, Any]:
        """Return the rates as plain values; ``above`` is judged with one limit over all cells."""
        draws = len(self.rate)
        share, low, high = rate(self.rate[:, None])
        limit = binom.isf(LEVEL / cells, draws, LEVEL)
        return {
            "question": self.question, "family": self.family, "classes": self.classes,
            "rate": share, "rate_low": low, "rate_high": high, "power": float(self.power.mean()),
            "draws": draws, "decides": self.decides, "above": bool(self.rate.sum() > limit),
        }  # fmt: skip


def swap_alarms(rng: np.random.Generator, draws: int) -> Iterator[Alarm]:
    """Yield swaps of one part: all classes are tested over their images."""
    margin = FACTOR * USUAL + MARGIN
    for classes in CLASSES:
        for family, values in FAMILY.items():
            found = np.zeros((2, draws), bool)
            for beyond in (0, 1):
                for draw in range(draws):
                    images = USUAL + values(rng, (classes, IMAGES))
                    images[0] += margin - USUAL + BEYOND * beyond
                    p_values = excess_over_others(list(images), FACTOR, MARGIN).p_value
                    of = p_values[0] if beyond else p_values.min()
                    found[beyond, draw] = classes * of < LEVEL
            yield Alarm("swap", family, classes, *found)


def audit_alarms(rng: np.random.Generator, draws: int) -> Iterator[Alarm]:
    """Yield contrasts by themselves, which propose, and audits of all classes, which decide.

    Contrasts of classes are of the family, and so are the images of each class that is proposed.
    """
    for classes in CLASSES[1:]:
        for family, values in FAMILY.items():
            proposed, decided = np.zeros((2, draws), bool), np.zeros((2, draws), bool)
            for beyond in (0, 1):
                for draw in range(draws):
                    contrasts = values(rng, (classes, LIST))
                    contrasts[0, 0] += CONTRAST * beyond
                    p = np.array(
                        [compare_classes(contrasts, c).p_value.min() for c in range(classes)]
                    )
                    final = p.copy()
                    for c in np.flatnonzero(p <= LEVEL):
                        extra = BEYOND if beyond and c == 0 else 0.0
                        final[c] = max(p[c], _on_images(rng, values, extra))
                    for result, one in ((proposed, p), (decided, final)):
                        q = false_discovery_control(one)
                        result[beyond, draw] = (q[0] if beyond else q.min()) <= LEVEL
            yield Alarm("audit: contrast proposes", family, classes, *proposed, decides=False)
            yield Alarm("audit: images decide", family, classes, *decided)


def _on_images(rng: np.random.Generator, values: Draw, beyond: float) -> float:
    """Return the p-value of the test on images of a class at the margin, or beyond it."""
    smallest = 1.0
    for test in range(TESTS):
        own = USUAL + values(rng, (2, WORDS["region" if test == 0 else "border"].count))[0]
        others = USUAL + values(rng, (OTHERS + 1, OF_OTHERS))[1:]
        own = own + FACTOR * USUAL + MARGIN - USUAL + (beyond if test == 0 else 0.0)
        found = excess_over_others([own, *others], FACTOR, MARGIN).p_value[0]
        smallest = min(smallest, TESTS * float(found))
    return min(smallest, 1.0)


BURSTS, FRAMES = 8, 5


def contrast_alarms(rng: np.random.Generator, draws: int) -> Iterator[Alarm]:
    """Yield contrasts of two groups: bursts of five alike, found as such, and if they were not."""
    images = BURSTS * FRAMES
    groups = np.repeat([0, 1], images)
    for question, found_first in (("contrast: no bursts found", False), ("contrast", True)):
        for family in ("normal", "t with 3 d.f.", "exponential"):
            found = np.zeros((2, draws), bool)
            for beyond in (0, 1):
                for draw in range(draws):
                    scene = np.repeat(FAMILY[family](rng, (2 * BURSTS, 20)), FRAMES, axis=0)
                    readouts = scene + 0.1 * rng.normal(size=scene.shape)
                    readouts[:images, 0] += 2.5 * beyond
                    bursts = near_duplicates(readouts, groups) if found_first else None
                    p = separate(
                        readouts[:images], readouts[images:], np.zeros(2 * images, np.int64), 200,
                        draw, bursts,
                    ).p_value  # fmt: skip
                    found[beyond, draw] = (p[0] if beyond else p.min()) < LEVEL
            yield Alarm(question, family, 2, *found, decides=found_first)
