"""AUROC and proportions, with confidence intervals that also hold near 0 and 1.

How often each holds the true value is in ``docs/calibration.md``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import beta, norm, rankdata
from scipy.stats import t as student

from semlens.errors import DataError

STEPS = 60
"""Bisections of an interval's limits; the last is far below float64's resolution."""
Z = 1.959964
"""Standard normal quantile of a 95 % interval."""


def auroc(
    positive: Float[np.ndarray, "p c"], negative: Float[np.ndarray, "n c"]
) -> Float64[np.ndarray, " c"]:
    """Probability that a positive sample's readout exceeds a negative one's; ties count half.

    The Mann-Whitney statistic of each column, from mean ranks.
    """
    ranks = rankdata(np.concatenate([positive, negative]), axis=0)
    n, m = len(positive), len(negative)
    return (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)


def auroc_interval(
    value: float, positive: int, negative: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the score interval of an AUROC (Newcombe 2006, method 5).

    The interval holds all true values whose own standard error is compatible with the
    measured value, so that its width is positive even at a measured value of 1.

    Parameters
    ----------
    value
        The measured AUROC.
    positive, negative
        Numbers of samples.
    level
        Confidence level.

    Raises
    ------
    DataError
        If a set is empty, or the value is not an AUROC.
    """
    if not (0 <= value <= 1 and positive > 0 and negative > 0):
        raise DataError(
            f"An AUROC of {value} from {positive} and {negative} samples has no interval.",
            "Expected a value from 0 to 1, and at least one sample in each set.",
            "Add samples.",
        )
    low, high = auroc_intervals(np.array([value]), positive, negative, level)
    return float(low[0]), float(high[0])


def auroc_intervals(
    values: Float64[np.ndarray, " c"],
    positive: int,
    negative: int,
    level: float = 0.95,
    inflation: Float64[np.ndarray, " c"] | float = 1.0,
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """Return the score intervals of many AUROCs, as :func:`auroc_interval`; NaN stays NaN.

    Parameters
    ----------
    inflation
        Factor of the variance, if samples are not independent.
    """
    quantile = float(norm.ppf(0.5 + level / 2)) * np.sqrt(inflation)
    return (
        _lower(values, positive, negative, quantile),
        1 - _lower(1 - values, positive, negative, quantile),
    )


def _lower(
    values: Float64[np.ndarray, " c"],
    positive: int,
    negative: int,
    quantile: Float64[np.ndarray, " c"] | float,
) -> Float64[np.ndarray, " c"]:
    """Return lower limits by bisection; the variance is symmetric: 1 - values gives upper ones."""
    half = (positive + negative) / 2 - 1
    # exclude 1: the variance is zero there, a root that is not a limit
    low, high = np.zeros_like(values), np.minimum(values, 1 - 1e-12)
    for _ in range(STEPS):
        true = (low + high) / 2
        spread = 1 + half * ((1 - true) / (2 - true) + true / (1 + true))
        variance = true * (1 - true) * spread / (positive * negative)
        too_low = values - true > quantile * np.sqrt(variance)
        low, high = np.where(too_low, true, low), np.where(too_low, high, true)
    return np.where(np.isnan(values), np.nan, np.where(values > 0, low, 0.0))


def wilson_interval(hits: int | float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927).

    ``hits`` may be a sum of shares, which vary less than hits: the interval is then too wide.
    """
    share = hits / count
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def change_interval(
    now: Bool[np.ndarray, " n"], before: Bool[np.ndarray, " m"], *, paired: bool
) -> tuple[float, float, float]:
    """Return the change of a proportion and its 95 % interval.

    For the same images (``paired``), from the numbers of images that change either way, one added
    to each (Bonett and Price 2012): the width is positive even if none changes. Otherwise from both
    Wilson intervals (Newcombe 1998, method 10). NaN if there were no images before.
    """
    if len(before) == 0:
        return float("nan"), float("nan"), float("nan")
    change = float(now.mean() - before.mean())
    if paired:
        count = len(now) + 2
        gained = (int((now & ~before).sum()) + 1) / count
        lost = (int((before & ~now).sum()) + 1) / count
        half = Z * np.sqrt((gained + lost - (gained - lost) ** 2) / count)
        return change, float(max(gained - lost - half, -1)), float(min(gained - lost + half, 1))
    low, high = wilson_interval(int(now.sum()), len(now))
    before_low, before_high = wilson_interval(int(before.sum()), len(before))
    below = np.hypot(now.mean() - low, before_high - before.mean())
    above = np.hypot(high - now.mean(), before.mean() - before_low)
    return change, change - float(below), change + float(above)


def mean_interval(values: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """Return Student's 95 % interval of a mean; NaN for fewer than two values."""
    count = len(values)
    if count < 2:
        return float("nan"), float("nan")
    half = float(student.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return float(values.mean()) - half, float(values.mean()) + half


class Interval(NamedTuple):
    """Values of k columns, with the limits of their confidence intervals."""

    mean: Float64[np.ndarray, " k"]
    low: Float64[np.ndarray, " k"]
    high: Float64[np.ndarray, " k"]


def clustered_shares(hits: Float[np.ndarray, "n k"], clusters: Int64[np.ndarray, " n"]) -> Interval:
    """Return the share of hits of each column, and its 95 % interval over clusters of samples.

    Samples of one cluster are alike. The interval is that of as many independent samples as have
    the variance of the clusters' sums, corrected for how little a few clusters tell of it (Korn
    and Graubard 1998), by Clopper and Pearson (1934). Where all samples or none are hits, a
    cluster counts as one sample.

    Parameters
    ----------
    hits
        0 or 1, or between if a hit is a matter of chance.

    Raises
    ------
    DataError
        If there are fewer than two clusters.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    count, n = int(cluster.max(initial=-1)) + 1, len(hits)
    if count < 2:
        raise DataError(
            f"The samples are of {count} group.",
            "Expected samples of at least two groups, for an interval.",
            "Add classes of images.",
        )
    share = hits.mean(0, dtype=np.float64)
    deviations = np.zeros((count, hits.shape[1]))
    np.add.at(deviations, cluster, hits - share)
    variance = count / (count - 1) * (deviations**2).sum(0) / n**2
    few = (student.ppf(0.975, n - 1) / student.ppf(0.975, count - 1)) ** 2
    binomial = share * (1 - share)
    most = np.full(len(share), float(n))
    # clusters that happen to agree show no more than independent samples do
    size = np.minimum(np.divide(binomial, variance, out=most.copy(), where=variance > 0), most)
    size = np.where(binomial > 0, size * few, count)
    found = share * size
    low = np.where(share > 0, beta.ppf(0.025, found, size - found + 1), 0.0)
    high = np.where(share < 1, beta.ppf(0.975, found + 1, size - found), 1.0)
    return Interval(share, low, high)
