"""Statistics of a stream of batches that merge exactly, in any order of shards.

A slot of :class:`TopExamples` is one 64-bit key: the upper 32 bits are the float32 bits of what
ranks the samples, mapped to an integer of the same order, the lower ones the inverted sample
number. Keys are unique within a component, so ``topk`` has no ties to break and the result equals a
full sort by (-strength, sample).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest

import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

_SAMPLE_MASK = 0xFFFFFFFF
_EMPTY_KEY = torch.iinfo(torch.int64).min


def _sort_keys(
    strength: Float32[Tensor, "c b"], sample: Int64[Tensor, " b"]
) -> Int64[Tensor, "c b"]:
    """Return order-preserving 64-bit keys; values that are not finite become empty slots."""
    bits = (strength + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 turns -0.0 into 0.0
    # the bits of positive floats sort as integers; of negative ones they sort in reverse order
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))
    keys = (ordered << 32) | (_SAMPLE_MASK - sample)[None, :]
    return torch.where(torch.isfinite(strength), keys, _EMPTY_KEY)


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
            torch.full(shape, _EMPTY_KEY, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.int32, device=device),
        )

    def update(
        self,
        strength: Float32[Tensor, "b c"],
        sample: Int64[Tensor, " b"],
        position: Int32[Tensor, "b c"],
    ) -> TopExamples:
        """Add one batch; ``sample`` holds numbers below 2**32 that were not added before.

        Values that are NaN or infinite are ignored.
        """
        return self._best(_sort_keys(strength.T.contiguous(), sample), position.T)

    def merge(self, other: TopExamples) -> TopExamples:
        """Merge the examples of two disjoint sets of samples (associative and commutative)."""
        # after k equal shards, a shard has one of the m best samples of a component in m / k of
        # the cases: the other rows stay as they are
        changed = (other.key[:, :1] > self.key[:, -1:]).any(1).nonzero()[:, 0]
        if 2 * len(changed) > len(self.key):
            return self._best(other.key, other.position)
        old = TopExamples(self.key[changed], self.position[changed])
        best = old._best(other.key[changed], other.position[changed])
        return TopExamples(
            self.key.index_copy(0, changed, best.key),
            self.position.index_copy(0, changed, best.position),
        )

    def _best(self, key: Int64[Tensor, "c b"], position: Int32[Tensor, "c b"]) -> TopExamples:
        best = torch.topk(torch.cat([self.key, key], dim=1), self.key.shape[1], dim=1, sorted=True)
        positions = torch.cat([self.position, position], dim=1).gather(1, best.indices)
        return TopExamples(best.values, torch.where(best.values == _EMPTY_KEY, 0, positions))

    @property
    def filled(self) -> Bool[Tensor, "c m"]:
        """Which slots hold a sample."""
        return self.key != _EMPTY_KEY

    @property
    def count(self) -> Int64[Tensor, " c"]:
        """Number of filled slots of each component."""
        return self.filled.sum(dim=1)

    @property
    def strength(self) -> Float32[Tensor, "c m"]:
        """What ranks the samples, strongest first; -inf in empty slots."""
        ordered = self.key >> 32
        bits = torch.where(ordered >= 0, ordered, (-ordered) | 0x80000000)
        signed = torch.where(bits > 0x7FFFFFFF, bits - (1 << 32), bits).to(torch.int32)
        return torch.where(self.filled, signed.view(torch.float32), -torch.inf)

    @property
    def sample(self) -> Int64[Tensor, "c m"]:
        """Sample numbers; 2**32 - 1, which is not a valid number, in empty slots."""
        return torch.where(self.filled, _SAMPLE_MASK - (self.key & _SAMPLE_MASK), _SAMPLE_MASK)

    def select(self, keep: Bool[Tensor, " c"]) -> TopExamples:
        """Return the components for which ``keep`` is true, in order."""
        return TopExamples(self.key[keep], self.position[keep])

    def to(self, device: torch.device | str) -> TopExamples:
        """Return a copy on ``device``."""
        return TopExamples(self.key.to(device), self.position.to(device))


@dataclass(frozen=True)
class ReadoutBlock:
    """Statistics of consecutive batches, per component."""

    count: Int64[Tensor, " c"]
    mean: Float64[Tensor, " c"]
    m2: Float64[Tensor, " c"]
    minimum: Float32[Tensor, " c"]
    maximum: Float32[Tensor, " c"]
    peak: Float32[Tensor, "2 c"]
    """Largest activation anywhere, and largest negated activation."""
    fired: Int64[Tensor, "2 c"]
    """Samples with an activation above zero anywhere, and below zero anywhere."""

    def __add__(self, other: ReadoutBlock) -> ReadoutBlock:
        """Merge two blocks by the pairwise update of Chan, Golub & LeVeque (1983)."""
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


def batch_statistics(
    readout: Float32[Tensor, "b c"], peak: Float32[Tensor, "2 b c"]
) -> ReadoutBlock:
    """Return the statistics of one batch's readouts and peaks, ignoring non-finite values."""
    finite = torch.isfinite(readout)
    count = finite.sum(0)
    values = torch.where(finite, readout, 0).double()
    mean = values.sum(0) / count.clamp(min=1).double()
    m2 = torch.where(finite, values - mean, 0).square().sum(0)
    finite_peaks = torch.where(torch.isfinite(peak), peak, -torch.inf)
    return ReadoutBlock(
        count,
        mean,
        m2,
        -_max_over_batch(torch.where(finite, -readout, -torch.inf)),
        _max_over_batch(torch.where(finite, readout, -torch.inf)),
        torch.stack([_max_over_batch(side) for side in finite_peaks]),
        (finite_peaks > 0).sum(1),
    )


def _max_over_batch(values: Float32[Tensor, "b c"]) -> Float32[Tensor, " c"]:
    """Return the maximum over the batch; -inf if all of its images were unreadable."""
    return torch.cat([values, values.new_full((1, values.shape[1]), -torch.inf)]).amax(0)


@dataclass(frozen=True)
class Moments:
    """Statistics of readouts as blocks of a binary tree over batches.

    Block ``(l, i)`` covers the ``2**l`` batches from batch ``i * 2**l``. Floats are always added
    along this tree, so the result does not depend on the order of updates and merges.
    """

    blocks: dict[tuple[int, int], ReadoutBlock] = field(
        default_factory=dict[tuple[int, int], ReadoutBlock]
    )

    def update(self, batch: int, block: ReadoutBlock) -> Moments:
        """Add batch number ``batch``."""
        return self.merge(Moments({(0, batch): block}))

    def merge(self, other: Moments) -> Moments:
        """Merge the statistics of disjoint batches (associative and commutative, to the bit)."""
        blocks = {**self.blocks, **other.blocks}
        new_keys = list(other.blocks)
        while new_keys:
            level, number = new_keys.pop()
            siblings = (level, number & ~1), (level, number | 1)
            if all(key in blocks for key in siblings):
                left, right = (blocks.pop(key) for key in siblings)
                parent = (level + 1, number >> 1)
                blocks[parent] = left + right
                new_keys.append(parent)
        return Moments(blocks)

    def total(self) -> ReadoutBlock:
        """Merge all blocks in the order of their batches.

        Raises
        ------
        ValueError
            If there are no batches.
        """
        ordered = sorted(self.blocks, key=lambda key: key[1] << key[0])
        if not ordered:
            raise ValueError("No batches were added. Expected at least one. Call update first.")
        return sum((self.blocks[key] for key in ordered[1:]), self.blocks[ordered[0]])


_SHARE_SCALE = 2.0**40
"""Shares are summed as integers in units of 2^-40; sums of 8 million samples fit into 64 bits."""


@dataclass(frozen=True)
class ClassShares:
    """Relevance shares of R components, collected by class for n classes.

    Parameters
    ----------
    classes
        The classes, ascending.
    count
        Number of samples of each class.
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
    def empty(cls, components: int) -> ClassShares:
        """Return shares without any class."""
        no_classes = torch.zeros(0, dtype=torch.int64)
        total = torch.zeros(0, components, dtype=torch.int64)
        return cls(no_classes, no_classes, total, torch.zeros(0, components))

    @classmethod
    def from_batch(cls, target: Int64[Tensor, " b"], share: Float32[Tensor, "b r"]) -> ClassShares:
        """Return the shares of one batch; values that are not finite count as zero."""
        share = torch.nan_to_num(share.double(), 0, 0, 0).clamp(-1, 1)
        # integer sums are exact, so that merging in any order gives the same bits
        classes, class_index = torch.unique(target, return_inverse=True)
        shape, rows = (len(classes), share.shape[1]), class_index[:, None].expand(share.shape)
        scaled_share = (share * _SHARE_SCALE).round().long()
        return cls(
            classes,
            torch.bincount(class_index, minlength=len(classes)),
            torch.zeros(shape, dtype=torch.int64).scatter_add_(0, rows, scaled_share),
            torch.full(shape, -torch.inf).scatter_reduce_(0, rows, share.float(), "amax"),
        )

    def merge(self, other: ClassShares) -> ClassShares:
        """Merge the shares of two disjoint sets of samples."""
        classes = torch.unique(torch.cat([self.classes, other.classes]))
        count = torch.zeros(len(classes), dtype=torch.int64)
        total = torch.zeros(len(classes), self.total.shape[1], dtype=torch.int64)
        maximum = torch.full(total.shape, -torch.inf)
        for source in (self, other):
            rows = torch.searchsorted(classes, source.classes)
            count[rows] += source.count
            total[rows] += source.total
            maximum[rows] = torch.maximum(maximum[rows], source.maximum)
        return ClassShares(classes, count, total, maximum)

    @property
    def mean(self) -> Float64[Tensor, "n r"]:
        """Mean share over the samples of each class."""
        return self.total.double() / _SHARE_SCALE / self.count[:, None].clamp(min=1)


def choose_samples(
    ids: Sequence[str], digests: Sequence[str], count: int, seed: int = 0
) -> list[int]:
    """Choose up to ``count`` samples at random, without replacement: those of smallest hash.

    The hash covers the seed, the content and the id of a sample, so the choice does not depend on
    the order of the samples. They are returned by hash, which is a random order: the first n are
    the choice of n (a bottom-k sketch; Cohen & Kaplan, 2007).

    Parameters
    ----------
    digests
        SHA-256 of each sample's content; samples with an empty one are never chosen.
    """

    def key(sample: int) -> tuple[bytes, int]:
        text = f"{seed}:{digests[sample]}:{ids[sample]}"
        return hashlib.sha256(text.encode(errors="surrogatepass")).digest(), sample

    return nsmallest(count, (i for i, digest in enumerate(digests) if digest), key)


@dataclass(frozen=True)
class SampleReadouts:
    """Raw readouts of c components on single samples.

    Parameters
    ----------
    components
        Number of readouts per sample.
    rows
        The readouts of each sample, by sample number.
    """

    components: int
    rows: dict[int, Float32[Tensor, " c"]]

    @classmethod
    def empty(cls, components: int) -> SampleReadouts:
        """Return readouts of no sample."""
        return cls(components, {})

    def update(
        self, readout: Float32[Tensor, "b c"], sample: Int64[Tensor, " b"]
    ) -> SampleReadouts:
        """Add one batch of samples that were not added before."""
        rows = dict(zip(sample.tolist(), readout.cpu(), strict=True))
        return SampleReadouts(self.components, {**self.rows, **rows})

    def merge(self, other: SampleReadouts) -> SampleReadouts:
        """Merge the readouts of two disjoint sets of samples (associative and commutative)."""
        return SampleReadouts(self.components, dict(sorted({**self.rows, **other.rows}.items())))

    def stack(
        self, samples: Sequence[int], components: slice = slice(None)
    ) -> Float32[Tensor, "s c"]:
        """Return the readouts of some samples and components."""
        if not samples:
            return torch.zeros(0, self.components)[:, components]
        return torch.stack([self.rows[sample][components] for sample in samples])
