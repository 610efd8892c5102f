"""Statistics of a stream of batches that merge exactly, in any order of shards.

A slot of :class:`TopExamples` is one 64-bit key: the activation's float32 bits, made to sort as an
integer, above the sample's number, counted down. Keys are unique within a component, so ``topk``
has no ties to break and the result is that of a full sort by (-activation, sample).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

_LOW = 0xFFFFFFFF
_EMPTY = torch.iinfo(torch.int64).min


def _keys(activation: Float32[Tensor, "c b"], sample: Int64[Tensor, " b"]) -> Int64[Tensor, "c b"]:
    """Order-preserving 64-bit keys; what is not finite becomes an empty slot."""
    bits = (activation + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 turns -0.0 into 0.0
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    keys = (ordered << 32) | (_LOW - sample)[None, :]
    return torch.where(torch.isfinite(activation), keys, _EMPTY)


@dataclass(frozen=True)
class TopExamples:
    """The strongest samples of each of c components.

    Parameters
    ----------
    key
        Sort keys, strongest first; an empty slot is the smallest int64.
    position
        Flat index of the peak in the component's map, for each slot.
    """

    key: Int64[Tensor, "c m"]
    position: Int32[Tensor, "c m"]

    @classmethod
    def empty(
        cls, components: int, examples: int, device: torch.device | str = "cpu"
    ) -> TopExamples:
        """Return ``components`` rows of ``examples`` empty slots."""
        shape = (components, examples)
        return cls(
            torch.full(shape, _EMPTY, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.int32, device=device),
        )

    def update(
        self,
        activation: Float32[Tensor, "b c"],
        sample: Int64[Tensor, " b"],
        position: Int32[Tensor, "b c"],
    ) -> TopExamples:
        """Take in one batch; ``sample`` holds numbers below 2**32 that were not seen before.

        Readouts that are NaN or infinite take no slot.
        """
        return self._best(_keys(activation.T.contiguous(), sample), position.T)

    def merge(self, other: TopExamples) -> TopExamples:
        """Join the examples of two disjoint sets of samples (associative and commutative)."""
        return self._best(other.key, other.position)

    def _best(self, key: Int64[Tensor, "c b"], position: Int32[Tensor, "c b"]) -> TopExamples:
        best = torch.topk(torch.cat([self.key, key], dim=1), self.key.shape[1], dim=1, sorted=True)
        positions = torch.cat([self.position, position], dim=1).gather(1, best.indices)
        return TopExamples(best.values, torch.where(best.values == _EMPTY, 0, positions))

    @property
    def filled(self) -> Bool[Tensor, "c m"]:
        """Which slots hold a sample."""
        return self.key != _EMPTY

    @property
    def count(self) -> Int64[Tensor, " c"]:
        """Number of filled slots of each component."""
        return self.filled.sum(dim=1)

    @property
    def activation(self) -> Float32[Tensor, "c m"]:
        """Readouts, strongest first; -inf in empty slots."""
        ordered = self.key >> 32
        bits = torch.where(ordered >= 0, ordered, (-ordered) | 0x80000000)
        signed = torch.where(bits > 0x7FFFFFFF, bits - (1 << 32), bits).to(torch.int32)
        return torch.where(self.filled, signed.view(torch.float32), -torch.inf)

    @property
    def sample(self) -> Int64[Tensor, "c m"]:
        """Sample numbers; 2**32 - 1 in empty slots, which no sample can have."""
        return torch.where(self.filled, _LOW - (self.key & _LOW), _LOW)

    def rows(self, keep: Bool[Tensor, " c"]) -> TopExamples:
        """Return the components where ``keep`` holds, in order."""
        return TopExamples(self.key[keep], self.position[keep])

    def to(self, device: torch.device | str) -> TopExamples:
        """Return a copy on ``device``."""
        return TopExamples(self.key.to(device), self.position.to(device))


@dataclass(frozen=True)
class ReadoutBlock:
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

    def __add__(self, other: ReadoutBlock) -> ReadoutBlock:
        """Join two runs (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        share = other.count.double() / count.clamp(min=1).double()
        delta = other.mean - self.mean
        return ReadoutBlock(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta.square() * self.count.double() * share,
            torch.minimum(self.minimum, other.minimum),
            torch.maximum(self.maximum, other.maximum),
            torch.maximum(self.peak, other.peak),
            self.fired + other.fired,
        )


def leaf(readout: Float32[Tensor, "b c"], peak: Float32[Tensor, "2 b c"]) -> ReadoutBlock:
    """Statistics of one batch's readouts and peaks; what is not finite is left out."""
    readout, peak = readout.cpu(), peak.cpu()  # not every device has float64
    good = torch.isfinite(readout)
    count = good.sum(0)
    values = torch.where(good, readout, 0).double()
    mean = values.sum(0) / count.clamp(min=1).double()
    m2 = torch.where(good, values - mean, 0).square().sum(0)
    peaks = torch.where(torch.isfinite(peak), peak, -torch.inf)
    return ReadoutBlock(
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

    blocks: dict[tuple[int, int], ReadoutBlock] = field(
        default_factory=dict[tuple[int, int], ReadoutBlock]
    )

    def update(self, batch: int, block: ReadoutBlock) -> Moments:
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

    def total(self) -> ReadoutBlock:
        """Join what is left, first batches first.

        Raises
        ------
        ValueError
            If no batch was taken in.
        """
        ordered = sorted(self.blocks, key=lambda key: key[1] << key[0])
        if not ordered:
            raise ValueError("Moments of no batches. Expected at least one. Call update first.")
        return sum((self.blocks[key] for key in ordered[1:]), self.blocks[ordered[0]])


_SCALE = 2.0**40
"""Resolution of the sums; 8 million samples of a class fit into 64 bits."""


@dataclass(frozen=True)
class ByClass:
    """Shares of R components, collected for n classes.

    Parameters
    ----------
    classes
        The classes that were met, ascending.
    count
        Samples of each.
    total
        Sum of the shares in units of 2^-40.
    maximum
        Largest share on any sample.
    """

    classes: Int64[Tensor, " n"]
    count: Int64[Tensor, " n"]
    total: Int64[Tensor, "n r"]
    maximum: Float32[Tensor, "n r"]

    @classmethod
    def empty(cls, components: int) -> ByClass:
        """Nothing met yet."""
        none = torch.zeros(0, dtype=torch.int64)
        total = torch.zeros(0, components, dtype=torch.int64)
        return cls(none, none, total, torch.zeros(0, components))

    @classmethod
    def of(cls, target: Int64[Tensor, " b"], share: Float32[Tensor, "b r"]) -> ByClass:
        """Collect one batch; shares that are not finite count as zero."""
        share = torch.nan_to_num(share.double(), 0, 0, 0).clamp(-1, 1)
        classes, place = torch.unique(target, return_inverse=True)
        shape, index = (len(classes), share.shape[1]), place[:, None].expand(share.shape)
        whole = (share * _SCALE).round().long()
        return cls(
            classes,
            torch.bincount(place, minlength=len(classes)),
            torch.zeros(shape, dtype=torch.int64).scatter_add_(0, index, whole),
            torch.full(shape, -torch.inf).scatter_reduce_(0, index, share.float(), "amax"),
        )

    def merge(self, other: ByClass) -> ByClass:
        """Join the findings over two disjoint sets of samples."""
        classes = torch.unique(torch.cat([self.classes, other.classes]))
        count = torch.zeros(len(classes), dtype=torch.int64)
        total = torch.zeros(len(classes), self.total.shape[1], dtype=torch.int64)
        maximum = torch.full(total.shape, -torch.inf)
        for part in (self, other):
            place = torch.searchsorted(classes, part.classes)
            count[place] += part.count
            total[place] += part.total
            maximum[place] = torch.maximum(maximum[place], part.maximum)
        return ByClass(classes, count, total, maximum)

    @property
    def mean(self) -> Float64[Tensor, "n r"]:
        """Mean share over each class's samples."""
        return self.total.double() / _SCALE / self.count[:, None].clamp(min=1)
