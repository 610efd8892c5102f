"""How often labels are right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.special import gammaln

from semlens.errors import DataError

TOP = 5
"""Best words of which one must be right."""


class HitTable(NamedTuple):
    """Whether the labels of n components are right: 1, 0, or a chance where words tie."""

    exact: Float64[np.ndarray, " n"]
    """Whether the best word is right."""
    top5: Float64[np.ndarray, " n"]
    """Whether one of the five best words is right."""


def hit_table(scores: Float[np.ndarray, "n q"], right: Bool[np.ndarray, "n q"]) -> HitTable:
    """Return whether the best word of each component, or one of its five best, is right.

    Words of equal score are in random order: a hit then has the probability that a right word
    comes first enough, so that a method that says nothing has the hits of chance.

    Parameters
    ----------
    scores
        Larger is better.
    right
        The right words; a component without any has no hits.

    Raises
    ------
    DataError
        If there is no word, or a score is NaN.
    """
    missing = int(np.isnan(scores).sum())
    if missing or not scores.shape[1]:
        raise DataError(
            f"There are {scores.shape[1]} words, and {missing} scores are NaN.",
            "Expected a score of each of at least one word.",
            "Check the vocabulary and the method.",
        )
    return HitTable(hit_chance(scores, right, 1), hit_chance(scores, right, TOP))


def hit_chance(
    scores: Float[np.ndarray, "n q"], right: Bool[np.ndarray, "n q"], count: int
) -> Float64[np.ndarray, " n"]:
    """Return the probability that a right word is among the best, ties in random order.

    Parameters
    ----------
    count
        Number of best words.
    """
    words = scores.shape[1]
    count = min(count, words)
    last = np.partition(scores, words - count, axis=1)[:, words - count, None]
    above, tied = scores > last, scores == last
    places = count - above.sum(1)  # for tied words
    ties, right_ties = tied.sum(1), (tied & right).sum(1)
    wrong = ties - right_ties
    # all places go to wrong words: C(wrong, places) / C(ties, places)
    missed = np.where(wrong >= places, np.exp(_log_choose(wrong, places, ties)), 0)
    missed[right_ties == 0] = 1
    return np.where((above & right).any(1), 1, 1 - missed)


def _log_choose(
    wrong: Int64[np.ndarray, " n"], places: Int64[np.ndarray, " n"], ties: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    rest = np.maximum(wrong - places, 0)
    return gammaln(wrong + 1) - gammaln(rest + 1) + gammaln(ties - places + 1) - gammaln(ties + 1)


def truths_of(right: Bool[np.ndarray, "n q"]) -> Int64[np.ndarray, " n"]:
    """Return a number for each component, the same where the right words are the same."""
    return np.unique(right, axis=0, return_inverse=True)[1].ravel()
