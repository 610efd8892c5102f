"""Exact nearest neighbours between sets of components (Eq. 5), computed in blocks and cached."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from semlens.lenses.compare.component_sets import ComponentSet
from semlens.progress import report_progress

BLOCK = 4096
"""Rows and columns of one block of similarities, which takes 64 MiB."""
MIN_CACHED_PAIRS = 10_000_000
"""Number of pairs from which a result is cached: about half a second of work."""


class PairProgress:
    """Reports how many of ``total`` pairs of components have been compared."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total

    def advance_to(self, done: int) -> None:
        """Report that ``done`` pairs have been compared."""
        self.done = min(max(done, self.done), self.total)
        report_progress("comparing components", self.done, self.total)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest component of another set for each of n components, by cosine.

    Parameters
    ----------
    index
        int64[n], indices into the other set; -1 if there is no nearest component.
    similarity
        float32[n], cosines; NaN if there is no nearest component.
    """

    index: Int64[np.ndarray, " n"]
    similarity: Float32[np.ndarray, " n"]

    @property
    def mean(self) -> float:
        """Set similarity (Eq. 5), summed in float64."""
        return float(self.similarity.mean(dtype=np.float64))

    def mutual(self, back: Nearest) -> Bool[np.ndarray, " n"]:
        """Return which components are the nearest of their nearest component."""
        return back.index[self.index] == np.arange(len(self.index))


def nearest_between_sets(
    a: ComponentSet, b: ComponentSet, progress: PairProgress
) -> tuple[Nearest, Nearest]:
    """Find the nearest components of two sets in both directions.

    Results for pairs of complete layers are cached.
    """
    if not (a.complete and b.complete):
        return nearest_between(a.unit_vectors, b.unit_vectors, progress)
    forward, backward = _empty(len(a)), _empty(len(b))
    other_layers = _parts(b)
    for layer, start in _parts(a):
        for other_layer, other_start in other_layers:
            there, back = _of_layers(progress, layer, other_layer)
            _enter(forward, start, there, other_start)
            _enter(backward, other_start, back, start)
    return _nearest(forward), _nearest(backward)


def nearest_within_set(a: ComponentSet, progress: PairProgress) -> Nearest:
    """Find the nearest other component of the same set; results for complete layers are cached."""
    if not a.complete:
        return nearest_among(a.unit_vectors, progress)
    best = _empty(len(a))
    layers = _parts(a)
    for index, (layer, start) in enumerate(layers):
        _enter(best, start, _of_layers(progress, layer)[0], start)
        for other_layer, other_start in layers[index + 1 :]:
            there, back = _of_layers(progress, layer, other_layer)
            _enter(best, start, there, other_start)
            _enter(best, other_start, back, start)
    return _nearest(best)


def _parts(components: ComponentSet) -> list[tuple[ComponentSet, int]]:
    """Return the layers of a set, and the index at which each starts."""
    layers = components.by_layer()
    return list(zip(layers, accumulate(map(len, layers), initial=0), strict=False))


def _of_layers(progress: PairProgress, *layers: ComponentSet) -> list[Nearest]:
    """Find the nearest components between two complete layers, both directions, or within one."""
    first, second = layers[0], layers[-1]
    keys = [layer.database.digests(layer.layers[0]) for layer in layers]
    if keys != sorted(keys):  # both orders share one cached result
        return _of_layers(progress, second, first)[::-1]

    def make() -> pd.DataFrame:
        same = first is second
        results = _search(first.unit_vectors, second.unit_vectors, progress, BLOCK, within=same)
        # in cached files, the index is called "place"
        frames = [
            pd.DataFrame({"place": nearest.index, "similarity": nearest.similarity})
            for nearest in results[: len(layers)]
        ]
        return pd.concat(frames, ignore_index=True)

    pairs = len(first) * len(second)
    progress_end = progress.done + (pairs // 2 if first is second else pairs)
    frame = first.database.cached(
        "nearest", keys, make, worth_saving=lambda _: pairs >= MIN_CACHED_PAIRS
    )
    progress.advance_to(progress_end)
    slices = [slice(len(first)), slice(len(first), None)]
    index, similarity = frame["place"].to_numpy(), frame["similarity"].to_numpy()
    return [Nearest(index[part], similarity[part]) for part in slices[: len(layers)]]


def nearest_between(
    first: Float32[np.ndarray, "n d"],
    second: Float32[np.ndarray, "m d"],
    progress: PairProgress | None = None,
    block: int = BLOCK,
) -> tuple[Nearest, Nearest]:
    """Find the nearest unit vector of the other set, for both sets.

    One matrix product serves both directions. Of equal cosines, the first wins.

    Parameters
    ----------
    first, second
        Unit vectors.
    """
    return _search(first, second, progress, block, within=False)


def nearest_among(
    unit_vectors: Float32[np.ndarray, "n d"],
    progress: PairProgress | None = None,
    block: int = BLOCK,
) -> Nearest:
    """Find the nearest other unit vector of the same set; only half the blocks are computed."""
    return _search(unit_vectors, unit_vectors, progress, block, within=True)[0]


def _search(
    first: np.ndarray,
    second: np.ndarray,
    progress: PairProgress | None,
    block: int,
    *,
    within: bool,
) -> tuple[Nearest, Nearest]:
    """Search block by block.

    With ``within``, both sets are the same: the diagonal is excluded, and blocks below it are
    skipped, because those above it serve both directions.
    """
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    best_a = _empty(len(a))
    best_b = best_a if within else _empty(len(b))
    for top in range(0, len(a), block):
        for left in range(top if within else 0, len(b), block):
            values = a[top : top + block] @ b[left : left + block].T
            square = within and left == top
            if square:
                values.fill_diagonal_(-torch.inf)
            else:
                _take(best_b, left, values.max(0), top)
            _take(best_a, top, values.max(1), left)
            if progress is not None:
                pairs = values.numel()
                progress.advance_to(progress.done + ((pairs + 1) // 2 if square else pairs))
    return _nearest(best_a), _nearest(best_b)


def _empty(count: int) -> tuple[Tensor, Tensor]:
    return torch.full((count,), -torch.inf), torch.full((count,), -1, dtype=torch.int64)


def _take(
    best: tuple[Tensor, Tensor], start: int, candidates: tuple[Tensor, Tensor], offset: int
) -> None:
    """Update the best values from ``start`` on with candidates of a block at ``offset``.

    Of equal values, the one with the smaller index is kept.
    """
    value, index = (part[start : start + len(candidates[0])] for part in best)
    candidate_index = candidates[1] + offset
    better = (candidates[0] > value) | ((candidates[0] == value) & (candidate_index < index))
    value[better] = candidates[0][better]
    index[better] = candidate_index[better]


def _enter(best: tuple[Tensor, Tensor], start: int, nearest: Nearest, offset: int) -> None:
    _take(best, start, (torch.tensor(nearest.similarity), torch.tensor(nearest.index)), offset)


def _nearest(best: tuple[Tensor, Tensor]) -> Nearest:
    value, index = best
    finite = torch.isfinite(value)
    return Nearest(
        torch.where(finite, index, -1).numpy(), torch.where(finite, value, torch.nan).numpy()
    )
