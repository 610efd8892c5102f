"""Mean, variance, extremes and firing rate of every component, bit-identical for any shards.

Floating-point sums depend on their order. Here the order is fixed by the data: each
batch is a leaf of a binary tree over batch numbers, and only complete siblings are
ever added (Chan's parallel formula). Any sharding, merged in any order, leaves the
same aligned blocks with the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Statistics of an aligned run of batches, per component."""

    count: Int64[Tensor, " c"]
    mean: Float64[Tensor, " c"]
    m2: Float64[Tensor, " c"]
    minimum: Float32[Tensor, " c"]
    maximum: Float32[Tensor, " c"]
    peak: Float32[Tensor, "2 c"]
    """Largest activation anywhere, and largest negated activation."""
    fired: Int64[Tensor, "2 c"]
    """Samples on which the activation was somewhere above zero, and below zero."""

    def __add__(self, other: Block) -> Block:
        """Join two runs (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        share = other.count.double() / count.clamp(min=1).double()
        delta = other.mean - self.mean
        return Block(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta.square() * self.count.double() * share,
            torch.minimum(self.minimum, other.minimum),
            torch.maximum(self.maximum, other.maximum),
            torch.maximum(self.peak, other.peak),
            self.fired + other.fired,
        )


def leaf(readout: Float32[Tensor, "b c"], peak: Float32[Tensor, "2 b c"]) -> Block:
    """Statistics of one batch's readouts and peaks; what is not finite is left out."""
    readout, peak = readout.cpu(), peak.cpu()  # not every device has float64
    good = torch.isfinite(readout)
    count = good.sum(0)
    values = torch.where(good, readout, 0).double()
    mean = values.sum(0) / count.clamp(min=1).double()
    m2 = torch.where(good, values - mean, 0).square().sum(0)
    peaks = torch.where(torch.isfinite(peak), peak, -torch.inf)
    return Block(
        count,
        mean,
        m2,
        -_largest(torch.where(good, -readout, -torch.inf)),
        _largest(torch.where(good, readout, -torch.inf)),
        torch.stack([_largest(side) for side in peaks]),
        (peaks > 0).sum(1),
    )


def _largest(values: Float32[Tensor, "b c"]) -> Float32[Tensor, " c"]:
    """Maximum over the batch; -inf for a batch whose images were all unreadable."""
    return torch.cat([values, values.new_full((1, values.shape[1]), -torch.inf)]).amax(0)


@dataclass(frozen=True)
class Moments:
    """Blocks by (level, number); block ``(l, i)`` covers the ``2**l`` batches from ``i * 2**l``."""

    blocks: dict[tuple[int, int], Block] = field(default_factory=dict[tuple[int, int], Block])

    def update(self, batch: int, block: Block) -> Moments:
        """Take in batch number ``batch``."""
        return self.merge(Moments({(0, batch): block}))

    def merge(self, other: Moments) -> Moments:
        """Join the statistics of disjoint batches (associative and commutative, to the bit)."""
        blocks = {**self.blocks, **other.blocks}
        ready = list(other.blocks)
        while ready:
            level, number = ready.pop()
            pair = (level, number & ~1), (level, number | 1)
            if all(key in blocks for key in pair):
                left, right = (blocks.pop(key) for key in pair)
                parent = (level + 1, number >> 1)
                blocks[parent] = left + right
                ready.append(parent)
        return Moments(blocks)

    def total(self) -> Block:
        """Join what is left, first batches first.

        Raises
        ------
        ValueError
            If no batch was taken in.
        """
        ordered = sorted(self.blocks, key=lambda key: key[1] << key[0])
        if not ordered:
            raise ValueError("Moments of no batches. Expected at least one. Call update first.")
        total = self.blocks[ordered[0]]
        for key in ordered[1:]:
            total = total + self.blocks[key]
        return total
