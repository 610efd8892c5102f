"""How well random concepts align: the yardstick of an audit's verdicts.

The larger a concept set, the larger the best alignment that chance gives. So a component counts as
aligned with a set of n concepts only above the quantile of the best of n random ones, drawn from a
background vocabulary. Our addition: the paper compares with zero (3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.special import gammaln

from semlens.errors import ConceptError


def chance_threshold(
    background: Float32[np.ndarray, "k v"], drawn: int, level: float
) -> Float32[np.ndarray, " k"]:
    """Return what the best of ``drawn`` random concepts exceeds with probability ``level`` at most.

    Exact, without draws: of v concepts the best of n is among the i lowest with probability
    C(i, n) / C(v, n).

    Parameters
    ----------
    background
        Alignment of each component with each concept of the background.
    level
        In (0, 1).

    Raises
    ------
    ConceptError
        If the background is not larger than the set, by so much that ``level`` can be met.
    """
    known = background.shape[1]
    lowest = np.arange(1, known + 1)
    with np.errstate(invalid="ignore"):
        log = gammaln(lowest + 1) - gammaln(lowest - drawn + 1)
    log -= gammaln(known + 1) - gammaln(known - drawn + 1)
    chance = np.where(lowest >= drawn, np.exp(np.minimum(log, 0)), 0.0)
    place = int(np.searchsorted(chance, 1 - level))
    if drawn >= known or place >= known - 1:  # nothing lies above the largest
        raise ConceptError(
            f"A background of {known} concepts is too small for a set of {drawn} at {level:g}.",
            f"Expected about {int(np.ceil(2 * drawn / level))} or more.",
            "Give a larger background vocabulary, or fixed thresholds.",
        )
    return np.partition(background, place, axis=1)[:, place]


@dataclass(frozen=True)
class Null:
    """Random concepts of one kind, and how many of that kind a set has."""

    above: Bool[np.ndarray, "k v"]
    """Which components a random concept alone would be called aligned with."""
    drawn: int


def random_shares(
    nulls: Sequence[Null], weight: Float[np.ndarray, "k l"], draws: int, seed: int
) -> Float[np.ndarray, "draws l"]:
    """Return which share of the weight random concept sets of the same size would claim."""
    rng = np.random.default_rng(seed)
    shares = np.zeros((draws, weight.shape[1]))
    for place in range(draws):
        claimed = np.zeros(len(weight), bool)
        for null in nulls:
            one = rng.choice(null.above.shape[1], null.drawn, replace=False)
            claimed |= null.above[:, one].any(axis=1)
        shares[place] = claimed @ weight
    return shares
