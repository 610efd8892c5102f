"""Is one class unlike the others? Student's prediction interval for one new observation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.stats import t as student

LEAST_CLASSES = 5
"""Classes that are needed to know how much a value varies where there is nothing to find."""


def outlier_p_values(
    values: Float[np.ndarray, " q"], others: Float[np.ndarray, "n q"]
) -> Float64[np.ndarray, " q"]:
    """Return for each of q values the probability that one more of its n others' kind is as large.

    The value less the others' mean, over the standard deviation of a new observation,
    ``s * sqrt(1 + 1 / n)``, has a t distribution with n - 1 degrees of freedom if all are normal.
    """
    n = len(others)
    values, others = np.asarray(values, np.float64), np.asarray(others, np.float64)
    excess = values - others.mean(axis=0)
    spread = others.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n)
    # where the others are all equal, anything more is beyond chance
    scale = np.maximum(np.abs(values), np.abs(others).max(axis=0))
    scores = np.where(excess > 1e-9 * scale, np.inf, -np.inf)
    np.divide(excess, spread, out=scores, where=spread > 1e-12 * scale)
    return student.sf(scores, n - 1)
