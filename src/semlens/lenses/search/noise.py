"""Which hits of a search are above noise: at most 5 % of them are expected to mean nothing.

A component without a meaning is a *mixture*: as many random crops of its layer as it has examples
(:mod:`semlens.lenses.noise`). The p-value of a component is the share of mixtures that are
aligned with the query as much. Benjamini and Hochberg (1995) choose the hits: the k best, for the
largest k whose p-values are at most 0.05 k / N, of N components. Of the hits above noise, at most
5 % are then expected to be meaningless components; if all are, the search has a hit with a
probability of 5 %.

P-values of good hits are far smaller than one in 16,384, the number of mixtures. Where their 250
largest alignments begin, a generalised Pareto distribution takes over (Knijnenburg et al. 2009). It
is fitted by L-moments (Hosking and Wallis 1987), and never lighter than the tail of a normal
distribution: cosines have an upper end, but a sample hardly tells where.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float16, Float32, Float64, Int64, UInt16
from scipy.special import boxcox, inv_boxcox

from semlens.lenses.noise import (
    LEVEL,
    POOL,
    SEED,
    cached_on_database,
    component_groups,
    mixtures,
    random_crops,
    strengths,
)
from semlens.store.examples import in_32_bits
from semlens.store.locked_cached_property import workers
from semlens.store.reader import Database
from semlens.streaming.aggregate import example_weights

DRAWN = 16_384
"""Mixtures that a search is compared with, per layer and number of examples."""
EXCEEDANCES = 250
"""Largest alignments of mixtures, to which the tail is fitted."""
LIGHTEST = -0.1
"""Least shape of the tail: that of the 250 largest of 16,384 normal variables."""
_MIXTURES = 2048
"""Mixtures that are summed in one step."""
_ROUNDING = 1e-6
"""So that a component equal to all mixtures is not above them: a layer may have one crop only."""


@dataclass(frozen=True, eq=False)
class Tail:
    """The distribution of a sample, with a fitted tail."""

    sample: Float64[np.ndarray, " n"]
    """In ascending order."""
    start: float
    """Where the tail begins."""
    share: float
    """Share of the sample in the tail."""
    shape: float
    scale: float

    @classmethod
    def fit(cls, sample: Float32[np.ndarray, " n"] | Float64[np.ndarray, " n"]) -> Tail:
        """Fit the tail of a sample."""
        ordered = np.sort(sample.astype(np.float64))
        count = min(EXCEEDANCES, len(ordered) // 4)
        start = ordered[-count - 1 : len(ordered) - count + 1].mean()
        excess = ordered[-count:] - start
        mean = max(float(excess.mean()), _ROUNDING)
        # the second L-moment is that of the distances of pairs
        rank = np.arange(count) / max(count - 1, 1)
        spread = max(2 * float((rank * excess).mean()) - mean, mean / 4)
        shape = max(2 - mean / spread, LIGHTEST)
        return cls(ordered, float(start), count / len(ordered), shape, mean * (1 - shape))

    def p_value(self, values: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
        """Return the probability of each value or a larger one."""
        reached = len(self.sample) - np.searchsorted(self.sample, values, side="left")
        beyond = self._beyond(values - self.start)
        return np.where(
            values > self.start,
            self.share * beyond,
            np.maximum(reached / len(self.sample), self.share),
        )

    def quantile(self, p_value: float) -> float:
        """Return the value that is reached with a probability of at most ``p_value``."""
        if p_value >= self.share:
            return float(np.quantile(self.sample, 1 - p_value, method="higher"))
        return self.start - self.scale * float(boxcox(p_value / self.share, -self.shape))

    def _beyond(self, excess: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
        """Return the survival function of the generalised Pareto distribution at each excess.

        As in ``scipy.stats.genpareto``, which takes a second to import.
        """
        scaled = np.maximum(excess, 0) / self.scale
        if self.shape < 0:
            scaled = np.minimum(scaled, -1 / self.shape)  # its upper end
        return inv_boxcox(-scaled, -self.shape)


def search_thresholds(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    direction: Float32[np.ndarray, " d"],
    alignments: Float32[np.ndarray, " n"],
) -> Float32[np.ndarray, " n"]:
    """Return the alignment that each component must exceed to be a hit above noise.

    Parameters
    ----------
    rows
        The components that are searched; all have examples.
    direction
        The query: the alignment of a vector is its inner product with it, divided by its norm.
    alignments
        Those of the components. Without a hit, thresholds are what a single one must exceed.
    """
    kinds = list(component_groups(database, rows))
    for layer, count, _ in kinds:
        drawn_crops(database, layer, count)  # on first use they report progress, in this thread
    tails = workers().map(
        lambda kind: Tail.fit(null_alignments(database, kind[0], kind[1], direction)), kinds
    )
    groups = [(positions, tail) for (_, _, positions), tail in zip(kinds, tails, strict=True)]
    p_values = np.ones(len(rows))
    for positions, tail in groups:
        # p-values above the level cannot be those of hits, whatever they are
        near = positions[alignments[positions] >= tail.quantile(LEVEL)]
        p_values[near] = tail.p_value(alignments[near].astype(np.float64) - _ROUNDING)
    least = benjamini_hochberg(p_values)
    thresholds = np.zeros(len(rows))
    for positions, tail in groups:
        thresholds[positions] = tail.quantile(least) + _ROUNDING
    return thresholds.astype(np.float32)


def benjamini_hochberg(p_values: Float64[np.ndarray, " n"], level: float = LEVEL) -> float:
    """Return the largest p-value of a discovery, at a false discovery rate of ``level``."""
    count = max(len(p_values), 1)
    small = np.sort(p_values[p_values <= level])
    found = np.flatnonzero(small <= level * np.arange(1, len(small) + 1) / count)
    return level * (int(found[-1]) + 1 if len(found) else 1) / count


def null_alignments(
    database: Database, layer: str, count: int, direction: Float32[np.ndarray, " d"]
) -> Float32[np.ndarray, " m"]:
    """Return alignments of mixtures of ``count`` random crops of a layer with a query.

    The sum of products is the product of the sum, so that only the norms of mixtures are kept.
    Medians are no sums: there are fewer of them, and they are kept.
    """
    drawn = drawn_crops(database, layer, count)
    if drawn is None:
        vectors = mixtures(database, layer, count).astype(np.float32)
        return vectors @ direction / np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    query, products = torch.from_numpy(direction), torch.empty(len(drawn.crops))
    for part, crops in in_32_bits(torch.from_numpy(drawn.crops)):
        torch.mv(crops, query, out=products[part])
    picked = np.take(products.numpy(), drawn.picked, mode="clip")  # all are inside
    weight = np.broadcast_to(drawn.weight, picked.shape)
    return np.einsum("mn,mn->m", picked, weight) / np.maximum(drawn.norm, 1e-12)


def drawn_crops(database: Database, layer: str, count: int) -> Drawn | None:
    """Return the crops of each mixture, drawn on first use; None for medians, which are no sums."""
    if database.manifest.recipe.aggregate == "median":
        mixtures(database, layer, count)
        return None
    return cached_on_database(
        database, ("drawn", layer, count), lambda: _draw(database, layer, count)
    )


@dataclass(frozen=True, eq=False)
class Drawn:
    """The crops of each of m mixtures of n."""

    crops: Float16[np.ndarray, "u d"]
    picked: UInt16[np.ndarray, "m n"]
    weight: Float32[np.ndarray, "m n"] | Float32[np.ndarray, "1 n"]
    norm: Float32[np.ndarray, " m"]
    """Norm of the weighted sum."""


def _draw(database: Database, layer: str, count: int) -> Drawn:
    rng = np.random.default_rng((SEED, DRAWN))
    crops = cached_on_database(
        database, ("crops", layer), lambda: random_crops(database, layer, rng).astype(np.float16)
    )
    rng = np.random.default_rng((SEED, DRAWN, count))
    picked = rng.integers(0, len(crops), (DRAWN, count), dtype=np.uint16)
    strength = strengths(database, layer, count)
    used, by_readout = torch.ones_like(strength, dtype=torch.bool), strength
    if database.manifest.recipe.aggregate == "mean":
        used, by_readout = used[:1], None
    weight = example_weights(used, by_readout).float().numpy()
    if by_readout is not None:  # that of a random component
        weight = weight[rng.integers(0, len(weight), DRAWN)]
    norm = database.cached(
        "norms",
        [*database.digests(layer), count, DRAWN, POOL, SEED],
        lambda: pd.DataFrame({"norm": _norms(crops, picked, weight)}),
    )
    return Drawn(crops, picked, weight, norm["norm"].to_numpy(np.float32))


def _norms(
    crops: Float16[np.ndarray, "u d"],
    picked: UInt16[np.ndarray, "m n"],
    weight: Float32[np.ndarray, "w n"],
) -> Float32[np.ndarray, " m"]:
    """Return norms of weighted sums of crops."""
    vectors = crops.astype(np.float32)
    weight = np.broadcast_to(weight, picked.shape)
    norm = np.empty(len(picked), np.float32)
    for start in range(0, len(picked), _MIXTURES):
        block = slice(start, start + _MIXTURES)
        total = np.zeros((len(picked[block]), vectors.shape[1]), np.float32)
        for crop, share in zip(picked[block].T, weight[block].T, strict=True):
            total += share[:, None] * vectors[crop]
        norm[block] = np.linalg.norm(total, axis=1)
    return norm
