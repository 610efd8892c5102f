"""The nearest vectors of each of very many unit vectors: the graph that UMAP lays out.

Products of all pairs in all dimensions are most of the cost, and concept vectors vary little in
most of them. So the vectors are turned to their principal axes, candidates are compared along the
first of these alone, and only the candidates in full. How many axes are enough is measured: the
fewest with which a sample of the vectors finds nearly all of its true neighbours. If even half of
the axes are too few, all products are in full, and the result is exact.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from semlens.progress import report_progress

RECALL = 0.99
"""Least share of the true neighbours that the sample must find."""
SAMPLE = 512
"""Vectors for which exact and approximate neighbours are compared."""
CANDIDATES = 4
"""Candidates that are compared in full, per neighbour."""
_FEWEST_AXES = 32
_BLOCK = 2**25
"""Products of one block: 128 MiB."""


def nearest_neighbours(
    units: Float32[np.ndarray, "n d"], count: int, seed: int = 0
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Return the nearest vectors of each unit vector, itself first, and their cosine distances.

    Parameters
    ----------
    count
        Neighbours of each vector, with itself; at most n.
    seed
        Of the sample from which the number of axes is chosen.
    """
    turned = _principal_axes(torch.from_numpy(units))
    axes = enough_axes(turned, count, seed)
    indices = torch.empty(len(units), count, dtype=torch.int64)
    cosines = torch.empty(len(units), count)
    step = max(1, _BLOCK // len(units))
    for start in range(0, len(units), step):
        block = torch.arange(start, min(start + step, len(units)))
        indices[block], cosines[block] = _nearest(turned, block, count, axes)
        report_progress("finding neighbours", min(start + step, len(units)), len(units))
    return indices.numpy(), (1 - cosines).clamp(min=0).numpy()


def _principal_axes(units: Float32[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
    """Return the vectors in a basis in which the first axes have most of their squared length."""
    axes = torch.linalg.eigh(units.T.double() @ units.double()).eigenvectors
    return units @ axes.flip(1).float()


def enough_axes(turned: Float32[Tensor, "n d"], count: int, seed: int) -> int:
    """Return with how many of the first axes a sample finds ``RECALL`` of its true neighbours."""
    size, dim = turned.shape
    rows = np.sort(np.random.default_rng(seed).permutation(size)[:SAMPLE])
    found = {}
    for axes in (dim, *_powers(dim // 2)):
        parts = torch.from_numpy(rows).split(max(1, _BLOCK // size))
        found[axes] = torch.cat([_nearest(turned, part, count, axes)[0] for part in parts])
        shared = (found[axes][:, :, None] == found[dim][:, None]).any(1)
        if axes < dim and shared.float().mean() >= RECALL:
            return axes
    return dim


def _powers(largest: int) -> list[int]:
    """Return numbers of axes to try: each twice the one before."""
    numbers = [_FEWEST_AXES]
    while 2 * numbers[-1] <= largest:
        numbers.append(2 * numbers[-1])
    return [number for number in numbers if number <= largest]


def _nearest(
    turned: Float32[Tensor, "n d"], rows: Int64[Tensor, " b"], count: int, axes: int
) -> tuple[Int64[Tensor, "b k"], Float32[Tensor, "b k"]]:
    """Return the nearest vectors of some, themselves first, and their cosines.

    Parameters
    ----------
    axes
        Along how many axes candidates are compared.
    """
    size, dim = turned.shape
    products = turned[rows, :axes] @ turned[:, :axes].T
    products[torch.arange(len(rows)), rows] = torch.inf
    wanted = count if axes == dim else min(CANDIDATES * count, size)
    values, candidates = products.topk(wanted, dim=1)
    if axes < dim:
        in_full = torch.einsum("bcd,bd->bc", turned[candidates], turned[rows])
        in_full[candidates == rows[:, None]] = torch.inf
        values, best = in_full.topk(count, dim=1)
        candidates = candidates.gather(1, best)
    values[:, 0] = 1
    return candidates, values
