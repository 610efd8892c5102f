"""How often labels are right, and intervals over what they are judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.special import gammaln
from scipy.stats import norm, t

from semlens.errors import DataError

TOP = 5
"""Best words of which one must be right."""
DRAWS = 2000
"""Bootstrap samples."""
LEVEL = 0.95
"""Confidence level."""


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


class Interval(NamedTuple):
    """Means of k columns, with the limits of their confidence intervals."""

    mean: Float64[np.ndarray, " k"]
    low: Float64[np.ndarray, " k"]
    high: Float64[np.ndarray, " k"]


def truth_bootstrap(
    values: Float[np.ndarray, "n k"],
    truths: Int64[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the mean of each column over components, with an interval over truths.

    Components of one truth are right or wrong together, so that truths are drawn with
    replacement, each with all of its components. All columns share the draws: the interval of a
    difference of two methods is that of the column of their differences. Limits are expanded
    percentiles (Hesterberg 2015), which are not too narrow for few truths.

    Parameters
    ----------
    values
        A row per component, such as hits, or differences of hits.
    truths
        The truth of each component, as :func:`truths_of` numbers them.

    Raises
    ------
    DataError
        If there are fewer than two truths.
    """
    _, truth = np.unique(truths, return_inverse=True)
    count = int(truth.max(initial=-1)) + 1
    if count < 2:
        raise DataError(
            f"The components have {count} truth.",
            "Expected components of at least two truths, for an interval.",
            "Add classes of images.",
        )
    sizes = np.bincount(truth)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, truth, values)
    weight = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    means = (weight @ sums) / (weight @ sizes)[:, None]
    tail = norm.cdf(t.ppf((1 - level) / 2, count - 1) * np.sqrt(count / (count - 1)))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return Interval(values.mean(0, dtype=np.float64), low, high)


def share_bootstrap(
    hits: Float[np.ndarray, "n k"],
    truths: Int64[np.ndarray, " n"],
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return shares of hits, as :func:`truth_bootstrap`, with an interval also at 0 and 1.

    Of a method without a single hit, all draws are 0. The upper limit is then the share that no
    truth shows with a probability of (1 - level) / 2 (Clopper and Pearson 1934); and the same for
    a method without a miss.
    """
    share, low, high = truth_bootstrap(hits, truths, draws=draws, level=level, seed=seed)
    least = ((1 - level) / 2) ** (1 / len(np.unique(truths)))
    high = np.where(hits.any(0), high, 1 - least)
    low = np.where((hits < 1).any(0), low, least)
    return Interval(share, low, high)
