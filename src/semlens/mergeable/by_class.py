"""Mean and maximum per class, exactly the same whatever the order of the samples.

Shares lie in [-1, 1]; they are summed as fixed-point integers, so that sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

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
        shape = (len(classes), share.shape[1])
        index = place[:, None].expand(share.shape)
        whole = (share * _SCALE).round().long()
        total = torch.zeros(shape, dtype=torch.int64).scatter_add_(0, index, whole)
        maximum = torch.full(shape, -torch.inf)
        maximum = maximum.scatter_reduce_(0, index, share.float(), "amax")
        return cls(classes, torch.bincount(place, minlength=len(classes)), total, maximum)

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
