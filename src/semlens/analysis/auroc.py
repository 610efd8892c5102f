"""How well a number tells two sets of images apart: AUROC, and how sure it is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from semlens.errors import DataError


def auroc(
    positive: Float[np.ndarray, "p c"], negative: Float[np.ndarray, "n c"]
) -> Float64[np.ndarray, " c"]:
    """Chance that a positive sample's readout exceeds a negative one's, ties counted half.

    The Mann-Whitney statistic of every column, from mean ranks.
    """
    ranks = rankdata(np.concatenate([positive, negative]), axis=0)
    n, m = len(positive), len(negative)
    return (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)


def auroc_interval(
    value: float, positive: int, negative: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the score interval of an AUROC (Newcombe 2006, method 5).

    All true values for which the measured one is not too far off, by the standard error that
    the true value would have: so it keeps a width where the measured value is 1.

    Parameters
    ----------
    value
        The measured AUROC.
    positive, negative
        Numbers of samples.
    level
        Of confidence.

    Raises
    ------
    DataError
        If a set is empty, or the value is no AUROC.
    """
    if not (0 <= value <= 1 and positive > 0 and negative > 0):
        raise DataError(
            f"An AUROC of {value} from {positive} and {negative} samples has no interval.",
            "Expected a value from 0 to 1, and samples on both sides.",
            "Give some.",
        )
    wide = float(norm.ppf(0.5 + level / 2))
    return (
        _lower(value, positive, negative, wide),
        1 - _lower(1 - value, positive, negative, wide),
    )


def _lower(value: float, positive: int, negative: int, wide: float) -> float:
    """Return the lower limit; the variance is symmetric, so 1 - value gives the upper one."""
    if value == 0:
        return 0.0
    half = (positive + negative) / 2 - 1

    def beyond(true: float) -> float:
        spread = 1 + half * ((1 - true) / (2 - true) + true / (1 + true))
        variance = true * (1 - true) * spread / (positive * negative)
        return value - true - wide * float(np.sqrt(variance))

    # at 1 the variance is zero, which is a root but no limit
    return float(brentq(beyond, 0.0, min(value, 1 - 1e-12), xtol=1e-12))  # type: ignore[arg-type]
