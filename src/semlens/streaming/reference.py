"""A random subset of the samples, and the readouts on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest

import torch
from jaxtyping import Float32, Int64
from torch import Tensor


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
