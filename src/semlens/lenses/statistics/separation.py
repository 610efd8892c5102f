"""How well measures separate two groups of images, by AUROC with permutation tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.stats import rankdata

from semlens.lenses.statistics.intervals import auroc_intervals
from semlens.lenses.statistics.permutation import permutation_p

CHUNK = 2048
"""Columns that are ranked at once: bounds the memory."""


@dataclass(frozen=True)
class Separation:
    """How well each of c columns separates two groups; NaN where a column is not finite."""

    auroc: Float64[np.ndarray, " c"]
    """Probability that an image of the first group has the larger value; ties count half."""
    low: Float64[np.ndarray, " c"]
    high: Float64[np.ndarray, " c"]
    """95 % interval of each AUROC by itself (Newcombe 2006, method 5)."""
    p_value: Float64[np.ndarray, " c"]
    """Family-wise over all columns (Westfall and Young 1993)."""


def separate(
    first: Float[np.ndarray, "n c"],
    second: Float[np.ndarray, "m c"],
    blocks: Int64[np.ndarray, " n+m"],
    draws: int,
    seed: int = 0,
) -> Separation:
    """Measure how well each column separates two groups of images.

    The p-value is that of a permutation test: images change groups within their block, and a
    column's standardised rank sum is compared with the largest of all columns (single-step
    maxT). It is valid for any distribution and any dependence between columns, as long as the
    images of a block are exchangeable where there is nothing to find.

    Parameters
    ----------
    blocks
        The block of each image, first group first: all zeros, or a number per pair.
    draws
        Random permutations; the smallest p-value is ``1 / (1 + draws)``.
    """
    n, m = len(first), len(second)
    in_first = np.arange(n + m) < n
    permuted = permuted_groups(in_first, blocks, draws, seed)
    _, block = np.unique(blocks, return_inverse=True)
    size = np.bincount(block)
    share = np.bincount(block, in_first) / size
    columns = first.shape[1]
    auroc, observed = np.full(columns, np.nan), np.full(columns, np.nan)
    largest = np.zeros(draws)
    for start in range(0, columns, CHUNK):
        part = slice(start, start + CHUNK)
        values = np.concatenate([first[:, part], second[:, part]]).astype(np.float64)
        finite = np.isfinite(values).all(0)
        ranks = rankdata(np.where(finite, values, 0.0), axis=0)
        # expectation and variance of the first group's rank sum, summed over the blocks:
        # drawing k of b ranks without replacement has variance k (b - k) / b times theirs
        centred = ranks - _block_means(ranks, block, size)
        spread = np.zeros((len(size), ranks.shape[1]))
        np.add.at(spread, block, centred**2)
        weight = share * (1 - share) * size / np.maximum(size - 1, 1)
        scale = np.sqrt((weight[:, None] * spread).sum(0))
        usable = finite & (scale > 0)
        scores = np.divide(centred, scale, out=np.zeros_like(centred), where=usable)
        sums = ranks[:n].sum(0)
        auroc[part] = np.where(finite, (sums - n * (n + 1) / 2) / (n * m), np.nan)
        observed[part] = np.where(finite, np.abs(in_first @ scores), np.nan)
        largest = np.maximum(largest, np.abs(permuted @ scores).max(1, initial=0.0))
    largest.sort()
    # ties in floating point count as reached: a p-value is rather too large
    reached = draws - np.searchsorted(largest, observed * (1 - 1e-9) - 1e-12, side="left")
    p_value = np.where(np.isnan(observed), np.nan, permutation_p(reached, draws))
    return Separation(auroc, *auroc_intervals(auroc, n, m), p_value)


def permuted_groups(
    in_first: np.ndarray, blocks: np.ndarray, draws: int, seed: int
) -> Float64[np.ndarray, "draws images"]:
    """Return 1 where an image is in the first group, permuted within its block."""
    random = np.random.default_rng(seed)
    order = np.argsort(blocks, kind="stable")
    keys = random.random((draws, len(blocks)))
    # sorting by block and then by a random key shuffles each block by itself
    shuffled = np.argsort(blocks[order] + keys, axis=1)
    groups = np.empty((draws, len(blocks)))
    groups[:, order] = in_first[order][shuffled]
    return groups


def _block_means(ranks: np.ndarray, block: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return for each image the mean of its block's ranks, column by column."""
    totals = np.zeros((len(size), ranks.shape[1]))
    np.add.at(totals, block, ranks)
    return (totals / size[:, None])[block]
