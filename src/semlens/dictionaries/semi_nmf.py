"""Semi-NMF: activations of any sign as nonnegative sums of directions (Ding et al. 2010)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor

from semlens.dictionaries.nonnegative_least_squares import (
    improved_codes,
    nonnegative_least_squares,
)

MAX_ROUNDS = 100
TOLERANCE = 1e-5
"""The fit ends once a round removes less than this share of the energy."""


def semi_nmf(x: Float[Tensor, "n c"], directions: int, seed: int) -> Float[Tensor, "k c"]:
    """Return directions D of unit length that minimise ``|x - Z D|^2`` for codes ``Z >= 0``.

    Codes and directions are solved in turn, each exactly, from the centroids of k-means (Ding et
    al. 2010, 3.3, whose multiplicative update of the codes needs more rounds).
    """
    solver = KMeans(directions, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]
    centroids = solver.fit(x.numpy()).cluster_centers_
    fitted = _unit(torch.from_numpy(centroids.astype(np.float32)))
    codes = nonnegative_least_squares(x, fitted)
    energy, previous = float(x.square().sum()), float("inf")
    for _ in range(MAX_ROUNDS):
        # a direction that no vector uses keeps its place
        used = codes.amax(0) > 0
        solved = torch.linalg.lstsq(codes[:, used].double(), x.double()).solution.float()
        fitted = fitted.clone()
        fitted[used] = solved
        lengths = fitted.norm(dim=1)
        fitted = _unit(fitted)
        codes = improved_codes(x, fitted, codes * lengths)
        left = float((x - codes @ fitted).square().sum())
        if previous - left < TOLERANCE * energy:
            break
        previous = left
    return fitted


def _unit(directions: Tensor) -> Tensor:
    return directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)
