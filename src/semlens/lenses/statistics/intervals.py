"""AUROC and proportions, with confidence intervals that also hold near 0 and 1."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import norm, rankdata

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
    values: Float64[np.ndarray, " c"], positive: int, negative: int, level: float = 0.95
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """Return the score intervals of many AUROCs, as :func:`auroc_interval`; NaN stays NaN."""
    quantile = float(norm.ppf(0.5 + level / 2))
    return (
        _lower(values, positive, negative, quantile),
        1 - _lower(1 - values, positive, negative, quantile),
    )


def _lower(
    values: Float64[np.ndarray, " c"], positive: int, negative: int, quantile: float
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

    For the same images (``paired``), from the deviation of the differences; otherwise from both
    Wilson intervals (Newcombe 1998, method 10). NaN if there were no images before.
    """
    if len(before) == 0:
        return float("nan"), float("nan"), float("nan")
    change = float(now.mean() - before.mean())
    if paired:
        half = Z * float((now.astype(float) - before).std()) / np.sqrt(len(now))
        return change, change - half, change + half
    low, high = wilson_interval(int(now.sum()), len(now))
    before_low, before_high = wilson_interval(int(before.sum()), len(before))
    below = np.hypot(now.mean() - low, before_high - before.mean())
    above = np.hypot(high - now.mean(), before.mean() - before_low)
    return change, change - float(below), change + float(above)
