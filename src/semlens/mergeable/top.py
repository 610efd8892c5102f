"""The m strongest samples of every component, exactly, in one pass.

A slot is one 64-bit key: the activation's float32 bits, made to sort as an integer,
above the sample's number, counted down. Keys are unique within a component, so
``topk`` has no ties to break and the result is that of a full sort by
(-activation, sample), whatever the batches, shards or their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int32, Int64
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
        keys = torch.cat([self.key, key], dim=1)
        best = torch.topk(keys, self.key.shape[1], dim=1, sorted=True)
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
