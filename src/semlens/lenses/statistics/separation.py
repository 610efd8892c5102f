"""How well measures separate two groups of images, by AUROC with permutation tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

from semlens.lenses.statistics.intervals import auroc_intervals
from semlens.lenses.statistics.permutation import permutation_p

CHUNK = 2048
"""Columns that are ranked at once: bounds the memory."""
ALIKE = 0.95
"""Least correlation of near-duplicates."""
LEAST_COLUMNS = 6
"""Columns that must vary independently to tell near-duplicates."""
MOST_COMPARED = 5000
"""Images that are compared with one another, at most."""


@dataclass(frozen=True)
class Separation:
    """How well each of c columns separates two groups; NaN where a column is not finite."""

    auroc: Float64[np.ndarray, " c"]
    """Probability that an image of the first group has the larger value; ties count half."""
    low: Float64[np.ndarray, " c"]
    high: Float64[np.ndarray, " c"]
    """95 % interval of each AUROC by itself (Newcombe 2006, method 5), with the variance that pairs
    and bursts of images give it (Obuchowski 1997)."""
    p_value: Float64[np.ndarray, " c"]
    """Family-wise over all columns (Westfall and Young 1993)."""


def separate(
    first: Float[np.ndarray, "n c"],
    second: Float[np.ndarray, "m c"],
    blocks: Int64[np.ndarray, " n+m"],
    draws: int,
    seed: int = 0,
    bursts: Int64[np.ndarray, " n+m"] | None = None,
) -> Separation:
    """Measure how well each column separates two groups of images.

    The p-value is that of a permutation test: bursts of images change groups within their block,
    and a column's standardised rank sum is compared with the largest of all columns (single-step
    maxT). It is valid for any distribution and any dependence between columns and within bursts,
    as long as the bursts of a block are exchangeable where there is nothing to find.

    Parameters
    ----------
    blocks
        The block of each image, first group first: all zeros, or a number per pair.
    draws
        Random permutations; the smallest p-value is ``1 / (1 + draws)``.
    bursts
        The number of each image's burst: images that belong together, such as frames of a video,
        all of one block and one group. By default each image is by itself.
    """
    n, m = len(first), len(second)
    places = np.arange(n + m)
    _, chosen, burst = np.unique(
        places if bursts is None else bursts, return_index=True, return_inverse=True
    )
    in_first = chosen < n
    permuted = permuted_groups(in_first, blocks[chosen], draws, seed)
    _, block = np.unique(blocks[chosen], return_inverse=True)
    size = np.bincount(block)
    share = np.bincount(block, in_first) / size
    # what varies together: a pair, or a burst
    paired = np.where(blocks > 0, blocks, -1 - burst)
    columns = first.shape[1]
    auroc, observed = np.full(columns, np.nan), np.full(columns, np.nan)
    inflation = np.ones(columns)
    largest = np.zeros(draws)
    for start in range(0, columns, CHUNK):
        part = slice(start, start + CHUNK)
        values = np.concatenate([first[:, part], second[:, part]]).astype(np.float64)
        finite = np.isfinite(values).all(0)
        ranks = rankdata(np.where(finite, values, 0.0), axis=0)
        # expectation and variance of the first group's rank sum, summed over the blocks:
        # drawing k of b ranks without replacement has variance k (b - k) / b times theirs
        centred = _sums(ranks - ranks.mean(0), burst)
        centred -= _block_means(centred, block, size)
        spread = np.zeros((len(size), ranks.shape[1]))
        np.add.at(spread, block, centred**2)
        weight = share * (1 - share) * size / np.maximum(size - 1, 1)
        scale = np.sqrt((weight[:, None] * spread).sum(0))
        usable = finite & (scale > 0)
        scores = np.divide(centred, scale, out=np.zeros_like(centred), where=usable)
        sums = ranks[:n].sum(0)
        auroc[part] = np.where(finite, (sums - n * (n + 1) / 2) / (n * m), np.nan)
        if len(np.unique(paired)) < n + m:
            inflation[part] = _inflation(np.where(finite, values, 0.0), ranks, n, paired)
        observed[part] = np.where(finite, np.abs(in_first @ scores), np.nan)
        largest = np.maximum(largest, np.abs(permuted @ scores).max(1, initial=0.0))
    largest.sort()
    # ties in floating point count as reached: a p-value is rather too large
    reached = draws - np.searchsorted(largest, observed * (1 - 1e-9) - 1e-12, side="left")
    p_value = np.where(np.isnan(observed), np.nan, permutation_p(reached, draws))
    return Separation(auroc, *auroc_intervals(auroc, n, m, inflation=inflation), p_value)


def _inflation(
    values: Float64[np.ndarray, "images c"],
    ranks: Float64[np.ndarray, "images c"],
    n: int,
    paired: Int64[np.ndarray, " images"],
) -> Float64[np.ndarray, " c"]:
    """Return the variance of each AUROC, as a factor of that of independent images.

    From each image's part in the AUROC, the share of the other group's images on its right side.
    """
    m = len(values) - n
    above = (ranks[:n] - rankdata(values[:n], axis=0)) / m
    below = 1 - (ranks[n:] - rankdata(values[n:], axis=0)) / n
    parts = np.concatenate([(above - above.mean(0)) / n, (below - below.mean(0)) / m])
    _, group = np.unique(paired, return_inverse=True)
    sums = _sums(parts, group)
    few = (len(sums) + 1) / (len(sums) - 1)  # as the jackknife, rather too wide
    alone, together = (parts**2).sum(0), few * (sums**2).sum(0)
    return np.divide(together, alone, out=np.ones_like(alone), where=alone > 0)


def _sums(values: Float64[np.ndarray, "images c"], group: np.ndarray) -> Float64[np.ndarray, "g c"]:
    """Return the sums of the rows of each group."""
    totals = np.zeros((int(group.max()) + 1, values.shape[1]))
    np.add.at(totals, group, values)
    return totals


def near_duplicates(
    values: Float[np.ndarray, "images c"], groups: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, " images"]:
    """Return the burst of each image: images of a group with nearly the same values.

    Values are standardised by column, and two images are of one burst if theirs correlate with at
    least :data:`ALIKE`. With too few independent columns to tell, each image is by itself.

    Parameters
    ----------
    groups
        Images of different groups are of different bursts.
    """
    alone = np.arange(len(values))
    usable = np.isfinite(values).all(0)
    centred = values[:, usable].astype(np.float64)
    centred = centred - centred.mean(0)
    spread = centred.std(0)
    standard = centred[:, spread > 0] / spread[spread > 0]
    energy = np.linalg.svd(standard, compute_uv=False) ** 2
    if len(values) > MOST_COMPARED or energy.sum() ** 2 < LEAST_COLUMNS * (energy**2).sum():
        return alone
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    unit = np.divide(standard, length, out=np.zeros_like(standard), where=length > 0)
    linked = (unit @ unit.T >= ALIKE) & (groups[:, None] == groups)
    return connected_components(csr_array(linked), directed=False)[1].astype(np.int64)


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


def _block_means(values: np.ndarray, block: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return for each row the mean of its block, column by column."""
    return (_sums(values, block) / size[:, None])[block]
