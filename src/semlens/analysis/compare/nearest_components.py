"""The nearest component of another set: exact, in blocks; what takes long is kept (Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from semlens.analysis.compare.component_sets import ComponentSet
from semlens.progress import report

BLOCK = 4096
"""Rows and columns of one block of similarities: 64 MiB."""
KEEP_FROM = 10_000_000
"""Pairs of components from which a result is kept: about half a second of work."""


class PairProgress:
    """Counts the pairs of components that are compared, of how many, and reports them."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total

    def reach(self, done: int) -> None:
        """Report that so many are done."""
        self.done = min(max(done, self.done), self.total)
        report("comparing components", self.done, self.total)


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

    def mutual(self, back: Nearest) -> Bool[np.ndarray, " n"]:
        """Return which are the nearest of their nearest, too."""
        return back.place[self.place] == np.arange(len(self.place))


def nearest_of_sets(
    a: ComponentSet, b: ComponentSet, count: PairProgress
) -> tuple[Nearest, Nearest]:
    """Find the nearest of two sets both ways; pairs of whole layers are kept and re-used."""
    if not (a.whole and b.whole):
        return both_ways(a.units, b.units, count)
    ahead, back = _empty(len(a)), _empty(len(b))
    others = _parts(b)
    for one, start in _parts(a):
        for other, at in others:
            to, fro = _of_layers(count, one, other)
            _enter(ahead, start, to, at)
            _enter(back, at, fro, start)
    return _nearest(ahead), _nearest(back)


def nearest_within(a: ComponentSet, count: PairProgress) -> Nearest:
    """Find the nearest other component of the same set; kept and re-used by layers, too."""
    if not a.whole:
        return within(a.units, count)
    best = _empty(len(a))
    parts = _parts(a)
    for number, (one, start) in enumerate(parts):
        _enter(best, start, _of_layers(count, one)[0], start)
        for other, at in parts[number + 1 :]:
            to, fro = _of_layers(count, one, other)
            _enter(best, start, to, at)
            _enter(best, at, fro, start)
    return _nearest(best)


def _parts(whole: ComponentSet) -> list[tuple[ComponentSet, int]]:
    """Return the layers of a set, and where in it each begins."""
    parts = whole.by_layer()
    return list(zip(parts, accumulate(map(len, parts), initial=0), strict=False))


def _of_layers(count: PairProgress, *layers: ComponentSet) -> list[Nearest]:
    """Find or compute the nearest between two whole layers, both ways, or within one."""
    first, second = layers[0], layers[-1]
    keys = [one.database.digests(one.layers[0]) for one in layers]
    if keys != sorted(keys):  # it is kept once, whichever of them comes first
        return _of_layers(count, second, first)[::-1]

    def make() -> pd.DataFrame:
        alone = first is second
        found = _search(first.units, second.units, count, BLOCK, alone=alone)[: len(layers)]
        return pd.concat([pd.DataFrame(vars(part)) for part in found], ignore_index=True)

    pairs = len(first) * len(second)
    end = count.done + (pairs // 2 if first is second else pairs)
    kept = first.database.cached("nearest", keys, make, worth_saving=lambda _: pairs >= KEEP_FROM)
    count.reach(end)
    ends = [slice(len(first)), slice(len(first), None)]
    place, similarity = kept["place"].to_numpy(), kept["similarity"].to_numpy()
    return [Nearest(place[end], similarity[end]) for end in ends[: len(layers)]]


def both_ways(
    first: Float32[np.ndarray, "n d"],
    second: Float32[np.ndarray, "m d"],
    count: PairProgress | None = None,
    block: int = BLOCK,
) -> tuple[Nearest, Nearest]:
    """Find the nearest in the second set for each of the first, and the other way round.

    One product serves both directions. Of equal ones the first wins.

    Parameters
    ----------
    first, second
        Unit vectors.
    """
    return _search(first, second, count, block, alone=False)


def within(
    units: Float32[np.ndarray, "n d"], count: PairProgress | None = None, block: int = BLOCK
) -> Nearest:
    """Find the nearest other component of the same set; half the blocks serve both ways."""
    return _search(units, units, count, block, alone=True)[0]


def _search(
    first: np.ndarray, second: np.ndarray, count: PairProgress | None, block: int, *, alone: bool
) -> tuple[Nearest, Nearest]:
    """Go through the blocks; ``alone``: both are one set, and a component is not its own."""
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    best_a = _empty(len(a))
    best_b = best_a if alone else _empty(len(b))
    for top in range(0, len(a), block):
        for left in range(top if alone else 0, len(b), block):
            values = a[top : top + block] @ b[left : left + block].T
            square = alone and left == top
            if square:
                values.fill_diagonal_(-torch.inf)
            else:
                _take(best_b, left, values.max(0), top)
            _take(best_a, top, values.max(1), left)
            if count is not None:
                pairs = values.numel()
                count.reach(count.done + ((pairs + 1) // 2 if square else pairs))
    return _nearest(best_a), _nearest(best_b)


def _empty(count: int) -> tuple[Tensor, Tensor]:
    return torch.full((count,), -torch.inf), torch.full((count,), -1, dtype=torch.int64)


def _take(best: tuple[Tensor, Tensor], start: int, found: tuple[Tensor, Tensor], at: int) -> None:
    """Keep what is nearer; of equal ones the one with the smaller place."""
    value, place = (part[start : start + len(found[0])] for part in best)
    other = found[1] + at
    better = (found[0] > value) | ((found[0] == value) & (other < place))
    value[better] = found[0][better]
    place[better] = other[better]


def _enter(best: tuple[Tensor, Tensor], start: int, part: Nearest, at: int) -> None:
    _take(best, start, (torch.tensor(part.similarity), torch.tensor(part.place)), at)


def _nearest(best: tuple[Tensor, Tensor]) -> Nearest:
    value, place = best
    found = torch.isfinite(value)
    return Nearest(
        torch.where(found, place, -1).numpy(), torch.where(found, value, torch.nan).numpy()
    )
