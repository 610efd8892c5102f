"""Whether classes exceed the other classes by more than a margin: a test whose unit is the image.

How far classes differ among themselves cannot be known from a few of them, so that a test of one
class against the spread of others either fails for heavy tails or finds little. Here the spread is
that between images, of which there are enough; what classes may differ by is stated, the margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy.stats import t as student


class Excess(NamedTuple):
    """By how much each of k classes exceeds the mean of the others, and whether by the margin."""

    value: Float64[np.ndarray, " k"]
    p_value: Float64[np.ndarray, " k"]


def excess_over_others(
    values: Sequence[Float[np.ndarray, " _n"]], factor: float, margin: float
) -> Excess:
    """Test whether the mean of a class is more than ``factor`` times the others' plus ``margin``.

    Where the others' mean is negative, the factor is 1. By Welch's t, whose degrees of freedom
    follow from the classes' own spreads, which may be unequal. Where Hall's correction for skewness
    (1992, On the removal of skewness by transformation) gives a larger p-value, it is that one: the
    test then holds for skewness in either direction.

    Parameters
    ----------
    values
        Of k >= 2 classes, the independent values of their images, at least two each.
    """
    count = len(values)
    means = np.array([one.mean(dtype=np.float64) for one in values])
    sizes = np.array([len(one) for one in values], float)
    # of the means: variance, and third cumulant
    variances = np.array([one.var(ddof=1, dtype=np.float64) for one in values]) / sizes
    thirds = [((one - mean) ** 3).mean() for one, mean in zip(values, means, strict=True)]
    thirds = np.array(thirds) / sizes**2
    others = (means.sum() - means) / (count - 1)
    weight = np.where(others > 0, factor, 1.0) / (count - 1)
    distance = means - weight * (count - 1) * others - margin
    from_others = weight**2 * (variances.sum() - variances)
    variance = variances + from_others
    skewness = thirds - weight**3 * (thirds.sum() - thirds)
    squares = variances**2 / (sizes - 1)
    freedom = variance**2 / np.maximum(squares + weight**4 * (squares.sum() - squares), 1e-300)
    return Excess(means - others, _p_value(distance, variance, skewness, freedom))


def p_above_zero(values: Float[np.ndarray, " n"]) -> float:
    """Return the p-value of a mean against 0 or less: Student's t, with the same correction.

    Parameters
    ----------
    values
        Independent, at least two.
    """
    values = values.astype(np.float64)
    mean, size = values.mean(keepdims=True), len(values)
    variance = values.var(ddof=1, keepdims=True) / size
    skewness = ((values - mean) ** 3).mean(keepdims=True) / size**2
    return float(_p_value(mean, variance, skewness, np.array([size - 1.0]))[0])


def _p_value(
    distance: Float64[np.ndarray, " k"],
    variance: Float64[np.ndarray, " k"],
    skewness: Float64[np.ndarray, " k"],
    freedom: Float64[np.ndarray, " k"],
) -> Float64[np.ndarray, " k"]:
    """Return p-values of distances with these variances, third cumulants and degrees of freedom."""
    # where no image differs from another, any distance is beyond chance
    score = np.where(distance > 1e-12, np.inf, -np.inf)
    np.divide(distance, np.sqrt(variance), out=score, where=variance > 0)
    skew = np.divide(skewness, variance**1.5, out=np.zeros(len(distance)), where=variance > 0)
    with np.errstate(invalid="ignore"):  # of infinite scores
        moved = score + skew * (score**2 / 3 + 1 / 6) + skew**2 * score**3 / 27
    return student.sf(np.fmin(score, moved), np.maximum(freedom, 1))
