"""An exact upper quantile of many streams of numbers, from their largest values only."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.errors import RecipeError

MEMORY = 2**31
"""Bytes of values that may be kept."""


class UpperQuantile:
    """The value that a share of each stream exceeds, without error.

    Of n numbers, the ``floor(share * n) + 1`` largest are kept: the smallest of these is exceeded
    by at most ``share * n`` numbers, and no smaller value is. This is numpy's quantile of
    ``1 - share`` by the method ``inverted_cdf``.

    Parameters
    ----------
    streams
        Number of streams.
    count
        Numbers that each of them will have.
    share
        Share of the numbers that are to exceed the quantile.

    Raises
    ------
    RecipeError
        If more than :data:`MEMORY` bytes would have to be kept.
    """

    def __init__(self, streams: int, count: int, share: float) -> None:
        self.keep = int(share * count * (1 + 1e-12)) + 1  # 0.005 * 1000 is just below 5
        if (needed := 4 * streams * self.keep) > MEMORY:
            raise RecipeError(
                f"The largest {share:.3g} of {count} activations of {streams} components take "
                f"{needed / 2**30:.1f} GiB.",
                f"Expected at most {MEMORY / 2**30:.0f} GiB, since they are kept in memory.",
                "Use fewer images or layers, or a smaller quantile.",
            )
        self._parts: list[Tensor] = []
        self._new = 0

    def update(self, values: Float32[Tensor, "streams n"]) -> None:
        """Add numbers to each stream."""
        if values.shape[1] > self.keep:
            values = values.topk(self.keep, dim=1, sorted=False).values
        self._parts.append(values)
        self._new += values.shape[1]
        if self._new > self.keep:  # merged rarely: as many new values as are kept
            self._merge()

    def result(self) -> Float32[Tensor, " streams"]:
        """Return the quantile of each stream."""
        self._merge()
        return self._parts[0].amin(1)

    def _merge(self) -> None:
        merged = torch.cat(self._parts, 1)
        count = min(self.keep, merged.shape[1])
        self._parts, self._new = [merged.topk(count, dim=1, sorted=False).values], 0
