"""IoU of score maps with masks at every threshold, from histograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from semlens.errors import RecipeError
from semlens.lenses.netdissect.input_masks import InputMasks
from semlens.lenses.netdissect.layer_maps import upsampled
from semlens.lenses.netdissect.overlap import iou_of

BINS = 4096
"""Thresholds that are compared, equally spaced between the smallest and the largest score."""
IMAGES = 32
"""Images that are up-sampled together."""


@dataclass(frozen=True, eq=False)
class ScoreRange:
    """Range of each kind of score, which :data:`BINS` thresholds divide."""

    low: Float32[Tensor, " s"]
    high: Float32[Tensor, " s"]

    @classmethod
    def of(cls, scores: Float32[Tensor, "n s h w"]) -> ScoreRange:
        """Return the range of some scores."""
        return cls(scores.amin((0, 2, 3)), scores.amax((0, 2, 3)))

    def ious(
        self, scores: Float32[Tensor, "n s h w"], masks: Sequence[InputMasks], concept: int
    ) -> Float64[np.ndarray, "s bins"]:
        """Return the IoU of a concept with where up-sampled scores reach each threshold.

        The sums are over all images, as in Network Dissection; threshold ``i`` is
        ``low + i / BINS * (high - low)``.
        """
        kinds = scores.shape[1]
        width = (self.high - self.low).clamp(min=1e-30)[:, None]
        labelled = torch.zeros(kinds * BINS, dtype=torch.float64)
        inside = labelled.clone()
        first = (torch.arange(kinds) * BINS)[:, None]
        for start in range(0, len(scores), IMAGES):
            part = scores[start : start + IMAGES]
            maps = upsampled(part, masks[0].valid.shape).flatten(2)
            share = (maps - self.low[:, None]) / width
            bins = (share * BINS).long().clamp(0, BINS - 1) + first
            for image, mask in zip(bins, masks[start : start + IMAGES], strict=True):
                valid = torch.from_numpy(mask.valid.ravel())
                labelled += torch.bincount(image[:, valid].flatten(), minlength=kinds * BINS)
                chosen = image[:, torch.from_numpy(mask.of(concept).ravel())].flatten()
                inside += torch.bincount(chosen, minlength=kinds * BINS)
        on, common = (_from_above(counts.numpy().reshape(kinds, BINS)) for counts in
                      (labelled, inside))  # fmt: skip
        return iou_of(common, on, common[:, :1])


def _from_above(counts: np.ndarray) -> np.ndarray:
    """Return the sums of each bin and all above it."""
    return counts[:, ::-1].cumsum(1)[:, ::-1]


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
