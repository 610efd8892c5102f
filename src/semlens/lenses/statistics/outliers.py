"""A test whether one class is unlike the others in any of many measures.

Each class is compared with the others, which tell what is ordinary. For many measures the
t-statistic is moderated: Smyth, Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments (2004), section 6.2: few samples, many measures,
and a common prior of their variances, which is estimated from all of them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import t as student

LEAST_CLASSES = 5
"""Classes that are needed to know how much a measure varies where there is nothing to find."""
LEAST_MEASURES = 3
"""Measures that are needed for a prior of their variances."""
_MOST_FREEDOM = 1e6


def moderated_p_values(
    values: Float[np.ndarray, " q"], others: Float[np.ndarray, "n q"]
) -> Float64[np.ndarray, " q"]:
    """Return for each measure the probability that one more class like the others is as large.

    Family-wise over the q measures (Bonferroni). The value less the others' mean is divided by
    ``s * sqrt(1 + 1 / n)``, where ``s`` is shrunk towards the prior. Measures are correlated:
    together they have no more degrees of freedom than n - 1 for each of their effective number,
    the participation ratio of the eigenvalues of their correlations.
    """
    count, measures = others.shape
    freedom = count - 1
    values, others = np.asarray(values, np.float64), np.asarray(others, np.float64)
    mean, variance = others.mean(axis=0), others.var(axis=0, ddof=1)
    scale = np.maximum(np.abs(values), np.abs(others).max(axis=0))
    varies = variance > (1e-9 * scale) ** 2
    total: float = freedom
    shrunk = variance
    if varies.sum() >= LEAST_MEASURES:
        prior, prior_freedom = variance_prior(variance[varies], freedom)
        shrunk = (prior_freedom * prior + freedom * variance) / (prior_freedom + freedom)
        standard = (others - mean)[:, varies] / np.sqrt(variance[varies])
        eigenvalues = np.linalg.svd(standard, compute_uv=False) ** 2
        effective = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
        total = min(prior_freedom + freedom, effective * freedom)
    # where the others are all equal, anything more is beyond chance
    scores = np.where(values - mean > 1e-9 * scale, np.inf, -np.inf)
    spread = np.sqrt(shrunk * (1 + 1 / count))
    np.divide(values - mean, spread, out=scores, where=varies)
    return np.minimum(student.sf(scores, total) * measures, 1)


def variance_prior(variances: Float64[np.ndarray, " q"], freedom: int) -> tuple[float, float]:
    """Return the prior variance and its degrees of freedom, from q sample variances.

    By the mean and variance of their logarithms (Smyth 2004, 6.2).
    """
    logs = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2))
    least = float(polygamma(1, _MOST_FREEDOM / 2))
    prior_freedom = _MOST_FREEDOM
    if excess > least:
        # the trigamma function falls from infinity to 0
        root = brentq(lambda x: polygamma(1, x) - excess, 1e-6, _MOST_FREEDOM / 2)
        prior_freedom = 2 * float(root)  # pyright: ignore[reportArgumentType]
    correction = digamma(prior_freedom / 2) - np.log(prior_freedom / 2)
    return float(np.exp(logs.mean() + correction)), prior_freedom
