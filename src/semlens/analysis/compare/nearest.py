"""The nearest component of another set of vectors: exact, in blocks (paper, Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

BLOCK = 4096
"""Rows and columns of one block of similarities: 64 MiB."""

Step = Callable[[int], None]
"""Told the number of pairs of components that a block has done."""


def unheard(pairs: int) -> None:
    """Take a report and do nothing with it."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each component of one set the nearest of another, by cosine.

    Parameters
    ----------
    place
        int64[n], places in the other set; -1 where there is none.
    similarity
        float32[n]; NaN where there is none.
    """

    place: Int64[np.ndarray, " n"]
    similarity: Float32[np.ndarray, " n"]

    @property
    def mean(self) -> float:
        """Set similarity (Eq. 5), in float64."""
        return float(self.similarity.mean(dtype=np.float64))


def both_ways(
    first: Float32[np.ndarray, "n d"],
    second: Float32[np.ndarray, "m d"],
    step: Step = unheard,
    block: int = BLOCK,
) -> tuple[Nearest, Nearest]:
    """Find the nearest in the second set for each of the first, and the other way round.

    One product serves both directions. Of equal ones the first wins.

    Parameters
    ----------
    first, second
        Unit vectors.
    """
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    best_a, best_b = _empty(len(a)), _empty(len(b))
    for top in range(0, len(a), block):
        for left in range(0, len(b), block):
            values = a[top : top + block] @ b[left : left + block].T
            _take(best_a, top, values.max(1), left)
            _take(best_b, left, values.max(0), top)
            step(values.numel())
    return _nearest(best_a), _nearest(best_b)


def within(
    units: Float32[np.ndarray, "n d"],
    step: Step = unheard,
    block: int = BLOCK,
) -> Nearest:
    """Find the nearest other component of the same set; half the blocks serve both ways."""
    a = torch.from_numpy(units)
    best = _empty(len(a))
    for top in range(0, len(a), block):
        for left in range(top, len(a), block):
            values = a[top : top + block] @ a[left : left + block].T
            if left == top:
                values.fill_diagonal_(-torch.inf)
            _take(best, top, values.max(1), left)
            if left > top:
                _take(best, left, values.max(0), top)
            step(values.numel())
    return _nearest(best)


def _empty(count: int) -> tuple[Tensor, Tensor]:
    return torch.full((count,), -torch.inf), torch.full((count,), -1, dtype=torch.int64)


def _take(best: tuple[Tensor, Tensor], start: int, found: tuple[Tensor, Tensor], at: int) -> None:
    """Keep what is nearer; of equal ones the one with the smaller place."""
    value, place = (part[start : start + len(found[0])] for part in best)
    other = found[1] + at
    better = (found[0] > value) | ((found[0] == value) & (other < place))
    value[better] = found[0][better]
    place[better] = other[better]


def _nearest(best: tuple[Tensor, Tensor]) -> Nearest:
    value, place = best
    found = torch.isfinite(value)
    return Nearest(
        torch.where(found, place, -1).numpy(), torch.where(found, value, torch.nan).numpy()
    )
