"""Semi-NMF: activations of any sign as nonnegative sums of directions (Ding et al. 2010)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from torch import Tensor

MAX_SWEEPS = 500
NNLS_TOLERANCE = 1e-6
"""A row has converged once no code changes by more than this share of its largest code."""


def _descend(products: Tensor, gram: Tensor, start: Tensor) -> Tensor:
    """Improve codes by coordinate descent until they have converged."""
    codes = start.clone()
    if not products.numel():
        return codes
    diagonal = gram.diagonal().clamp_min(1e-12)
    columns = gram.unbind(1)
    pending = torch.arange(len(products), device=products.device)
    for _ in range(MAX_SWEEPS):
        current, wanted = codes[pending].T.contiguous(), products[pending].T
        previous = current.clone()
        for k, column in enumerate(columns):
            step = (wanted[k] - column @ current) / diagonal[k]
            current[k] = (current[k] + step).clamp_min_(0)
        codes[pending] = current.T
        change = (current - previous).abs().amax(0)
        pending = pending[change > NNLS_TOLERANCE * current.amax(0)]
        if not len(pending):
            break
    return codes


@torch.library.custom_op("semlens::nonnegative_least_squares", mutates_args=())
def _solve(products: Tensor, gram: Tensor) -> Tensor:
    return _descend(products, gram, torch.zeros_like(products))


@_solve.register_fake
def _(products: Tensor, gram: Tensor) -> Tensor:
    return torch.empty_like(products)


def nonnegative_least_squares(
    x: Float[Tensor, "n c"], directions: Float[Tensor, "k c"]
) -> Float[Tensor, "n k"]:
    """Return the codes ``z >= 0`` that minimise ``|x - z directions|^2``, row by row.

    By cyclic coordinate descent (Cichocki & Phan 2009, HALS), each row until it has converged, so
    that the codes of a row do not depend on the others. It is one operator in a captured graph.
    """
    return _solve(x @ directions.T, directions @ directions.T)


def improved_codes(
    x: Float[Tensor, "n c"], directions: Float[Tensor, "k c"], start: Float[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Return the same codes, sooner, from a start near them."""
    return _descend(x @ directions.T, directions @ directions.T, start)


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
