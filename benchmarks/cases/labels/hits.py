"""Hits of labels, and intervals for units of which several have the same right word.

The units that one word is right for are not independent: if an embedder does not know the word,
all of them are missed, in every world and by every method. Intervals are therefore those of a
Bayesian bootstrap over right words (Rubin 1981): each word has a random weight with exponential
distribution, which all its units share, and a mean over units becomes a weighted mean. The draws
are common to all methods and regimes, so that differences and means of estimates are computed draw
by draw. Worlds, embedders and subjects are not drawn: intervals say nothing about others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float64, Int64

from benchmarks.worlds.labelled.units import Units

TOP = 5
"""Number of best words of which one has to be right."""
DRAWS = 4000
NOT_JUDGED = ("noise", "unknown")
"""Kinds of units that no word is right for."""


@dataclass(frozen=True, eq=False)
class Hits:
    """What a method found, of n judged units."""

    exact: Bool[np.ndarray, " n"]
    """Whether the best word is right."""
    lenient: Bool[np.ndarray, " n"]
    """Whether it is right or nearly right."""
    top5: Bool[np.ndarray, " n"]
    """Whether one of the five best is right."""


MEASURES = tuple(field.name for field in fields(Hits))


def judged(units: Units) -> Int64[np.ndarray, " n"]:
    """Return the rows of the units with a right word.

    Raises
    ------
    ValueError
        If a unit's kind and its right words contradict each other.
    """
    known = np.array([kind not in NOT_JUDGED for kind in units.kind])
    wrong = np.flatnonzero(known != units.right.any(1))
    if len(wrong):
        raise ValueError(
            f"Unit {wrong[0]} of {units.world}, '{units.kind[wrong[0]]}', has "
            f"{units.right[wrong[0]].sum()} right words. Expected none for "
            f"{' and '.join(NOT_JUDGED)}, and at least one for the others."
        )
    return np.flatnonzero(known)


def truths(units: Units, rows: Int64[np.ndarray, " n"]) -> tuple[str, ...]:
    """Return the first right word of each unit, by which units are grouped."""
    return tuple(units.words[word] for word in units.right[rows].argmax(1))


def best_words(scores: np.ndarray, count: int = TOP) -> Int64[np.ndarray, "n k"]:
    """Return the words with the largest scores, the best first; ties go to earlier words."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def find_hits(
    best: Int64[np.ndarray, "n k"], right: Bool[np.ndarray, "n q"], nearly: Bool[np.ndarray, "n q"]
) -> Hits:
    """Compare the best words of units with the right ones.

    Parameters
    ----------
    nearly
        bool[n q], which words are right or nearly right.
    """
    found = np.take_along_axis(right, best, 1)
    near = np.take_along_axis(nearly, best[:, :1], 1)[:, 0]
    return Hits(found[:, 0], near, found.any(1))


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value and its bootstrap draws."""

    value: float
    draws: Float64[np.ndarray, " b"]

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference, of the value and of each draw."""
        return Estimate(self.value - other.value, self.draws - other.draws)

    @classmethod
    def mean(cls, estimates: Sequence[Estimate]) -> Estimate:
        """Return the mean, of the values and of each draw."""
        return cls(
            float(np.mean([one.value for one in estimates])),
            np.mean([one.draws for one in estimates], axis=0),
        )

    def record(self, name: str) -> dict[str, float]:
        """Return the value by its name, and ``low`` and ``high`` of a 95 % interval."""
        low, high = np.quantile(self.draws, (0.025, 0.975))
        return {name: self.value, "low": float(low), "high": float(high)}


class Bootstrap:
    """Weights of right words, common to all estimates.

    Parameters
    ----------
    words
        The right words of all units; repeated ones count once.
    """

    def __init__(self, words: Sequence[str], draws: int = DRAWS, seed: int = 0) -> None:
        self._place = {word: place for place, word in enumerate(sorted(set(words)))}
        shape = draws, len(self._place)
        self._weights = np.random.default_rng(seed).standard_exponential(shape)

    def mean(self, words: Sequence[str], values: np.ndarray) -> Estimate:
        """Estimate the mean of values of units.

        Parameters
        ----------
        words
            The right word of each unit.
        """
        places = [self._place[word] for word in words]
        size = self._weights.shape[1]
        sums = np.bincount(places, np.asarray(values, float), size)
        drawn = self._weights @ sums / (self._weights @ np.bincount(places, minlength=size))
        return Estimate(float(np.mean(values)), drawn)
