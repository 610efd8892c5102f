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
from semlens.lenses.audit.image_test import OF_OTHERS, OTHERS
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
MOST = 300
"""Draws of audits, at most: each compares all classes with one another."""
CONTRAST = 8
"""Contrast of an artefact, in standard deviations of the classes' contrasts."""


@dataclass(frozen=True)
class Alarm:
    """How often any class raises the alarm, without an artefact and the artefact's class with one.

    ``rate`` and ``power`` hold whether it was so, draw by draw. What is not ``used`` is there for
    comparison.
    """

    question: str
    family: str
    classes: int
    rate: np.ndarray
    power: np.ndarray
    used: bool = True

    def record(self, cells: int) -> dict[str, Any]:
        """Return the rates as plain values; ``above`` is judged with one limit over all cells."""
        draws = len(self.rate)
        share, low, high = rate(self.rate[:, None])
        limit = binom.isf(LEVEL / cells, draws, LEVEL)
        return {
            "question": self.question, "family": self.family, "classes": self.classes,
            "rate": share, "rate_low": low, "rate_high": high, "power": float(self.power.mean()),
            "draws": draws, "used": self.used, "above": bool(self.rate.sum() > limit),
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
    """Yield audits of all classes: contrasts propose and images decide; and contrasts alone.

    The first class is proposed for certain, also where there is nothing to find.
    """
    draws = min(draws, MOST)
    for classes in CLASSES[1:]:
        for family, values in FAMILY.items():
            found, alone = np.zeros((2, draws), bool), np.zeros((2, draws), bool)
            for beyond in (0, 1):
                for draw in range(draws):
                    contrasts = values(rng, (classes, LIST))
                    p_values = _contrast_p_values(contrasts + CONTRAST * beyond * _first(contrasts))
                    alone[beyond, draw] = _alarms(p_values, np.ones(classes, bool), beyond)
                    contrasts += CONTRAST * _first(contrasts)
                    p_values = _contrast_p_values(contrasts)
                    proposed = p_values <= LEVEL
                    for c in np.flatnonzero(proposed):
                        p_values[c] = _image_p_value(rng, values, c, classes, beyond)
                    found[beyond, draw] = _alarms(p_values, proposed, beyond)
            yield Alarm("audit: contrast alone", family, classes, *alone, used=False)
            yield Alarm("audit", family, classes, *found)


def _first(contrasts: np.ndarray) -> np.ndarray:
    """Return 1 for the first class and concept, else 0."""
    first = np.zeros_like(contrasts)
    first[0, 0] = 1
    return first


def _contrast_p_values(contrasts: np.ndarray) -> np.ndarray:
    return np.array([compare_classes(contrasts, c).p_value.min() for c in range(len(contrasts))])


def _image_p_value(
    rng: np.random.Generator, values: Draw, tested: int, classes: int, beyond: int
) -> float:
    """Return the p-value of a class, the first of which lies at or beyond the margin."""
    others = rng.permutation(np.delete(np.arange(classes), tested))[:OTHERS]
    gains: list[np.ndarray] = []
    for one, count in [(tested, WORDS["region"].count), *((other, OF_OTHERS) for other in others)]:
        images = USUAL + values(rng, (2, count))[int(one > 0)]  # the first may have its own spread
        gains.append(images + (one == 0) * (FACTOR * USUAL + MARGIN - USUAL + BEYOND * beyond))
    return float(excess_over_others(gains, FACTOR, MARGIN).p_value[0])


def _alarms(p_values: np.ndarray, decided: np.ndarray, beyond: int) -> bool:
    """Return whether any class, or the one with the artefact, raises the alarm."""
    alarms = (false_discovery_control(p_values) <= LEVEL) & decided
    return bool(alarms[0] if beyond else alarms.any())


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
            yield Alarm(question, family, 2, *found, used=found_first)
