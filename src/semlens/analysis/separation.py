"""Which components tell two sets of images apart: AUROC of their readouts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.stats import rankdata


def auroc(
    positive: Float[np.ndarray, "p c"], negative: Float[np.ndarray, "n c"]
) -> Float64[np.ndarray, " c"]:
    """Chance that a positive sample's readout exceeds a negative one's, ties counted half.

    The Mann-Whitney statistic of every column, from mean ranks.
    """
    ranks = rankdata(np.concatenate([positive, negative]), axis=0)
    n, m = len(positive), len(negative)
    return (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)
