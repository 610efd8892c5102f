"""Whether one class's gain is out of the ordinary, if the others tell what is ordinary."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy.stats import t as student

MOST_FREEDOM = 4
"""Degrees of freedom at most, so that the test holds for gains with heavier tails than normal."""


def leave_one_out(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return for each value the probability that a new one of the others' kind is as large.

    A value's distance from the others' mean, in standard deviations of a new observation, is
    compared with Student's t. If all values were normal, it would have n - 2 degrees of freedom;
    at most :data:`MOST_FREEDOM` are used, since a few values cannot show how heavy the tail is.
    """
    n = len(values) - 1
    others = np.tile(values, (n + 1, 1))[~np.eye(n + 1, dtype=bool)].reshape(n + 1, n)
    excess = values - others.mean(1)
    spread = others.std(1, ddof=1) * np.sqrt(1 + 1 / n)
    # without spread no other class gains anything: then any gain is beyond chance
    beyond = np.where(excess > 1e-9 * np.abs(values).max(), np.inf, -np.inf)
    scores = np.divide(excess, spread, out=beyond, where=spread > 0)
    return student.sf(scores, min(n - 1, MOST_FREEDOM))
