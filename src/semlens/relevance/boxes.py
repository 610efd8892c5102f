"""From a heatmap to a box: up-sample, blur, keep what exceeds a share of the maximum.

All three are linear and separable but the last, so a heatmap is two small matrix
products: ``rows @ map @ columns.T``.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn import functional


def kernel_size(share: float, size: int) -> int:
    """Return the odd blur kernel for an input of ``size`` pixels (paper, H.1: 51 at 224)."""
    return 2 * round((share * size - 1) / 2) + 1 if share * size > 1 else 1


@lru_cache(maxsize=64)
def smoothing(cells: int, size: int, kernel: int) -> Float32[Tensor, "size cells"]:
    """Return the matrix that up-samples ``cells`` values to ``size`` and blurs them.

    Bilinear up-sampling (corners not aligned), then a Gaussian with reflected borders and
    the usual width for its kernel, ``0.3 * ((kernel - 1) / 2 - 1) + 0.8``.
    """
    matrix = functional.interpolate(
        torch.eye(cells)[None], size=size, mode="linear", align_corners=False
    )[0]
    reach = min(kernel // 2, size - 1)
    if reach > 0:
        sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
        places = torch.arange(-reach, reach + 1, dtype=torch.float32)
        weights = torch.exp(-0.5 * (places / sigma) ** 2)
        padded = functional.pad(matrix[None], (reach, reach), mode="reflect")
        matrix = functional.conv1d(padded[0][:, None], (weights / weights.sum())[None, None])[:, 0]
    return matrix.T.contiguous()


def heatmaps(
    maps: Float32[Tensor, "n h w"], height: int, width: int, blur: float
) -> Float32[Tensor, "n height width"]:
    """Up-sample and blur the positive part of activation maps to the input's size."""
    rows = smoothing(maps.shape[1], height, kernel_size(blur, height)).to(maps.device)
    columns = smoothing(maps.shape[2], width, kernel_size(blur, width)).to(maps.device)
    return rows @ maps.clamp(min=0) @ columns.T


def boxes(heat: Float32[Tensor, "n height width"], threshold: float) -> Int64[Tensor, "n 4"]:
    """Bound what exceeds ``threshold`` of each map's maximum (paper, H.1).

    Returns
    -------
    Tensor
        Left, top, right, bottom in input pixels, the last two exclusive. A map without a
        positive value gives the whole input.
    """
    height, width = heat.shape[1:]
    columns, rows = heat.amax(1), heat.amax(2)
    limit = threshold * rows.amax(1, keepdim=True)
    empty = (limit <= 0) if threshold > 0 else (rows.amax(1, keepdim=True) <= 0)
    wide, high = (columns > limit) | empty, (rows > limit) | empty
    left, top = wide.int().argmax(1), high.int().argmax(1)
    right = width - wide.flip(1).int().argmax(1)
    bottom = height - high.flip(1).int().argmax(1)
    return torch.stack([left, top, right, bottom], dim=1)


MASK_CELLS = 16
"""A display mask has this many cells along each side of its box."""


def masks(
    heat: Float32[Tensor, "n height width"], box: Int64[Tensor, "n 4"], threshold: float = 0.02
) -> Bool[Tensor, "n 16 16"]:
    """Sample, within each box, where a heatmap exceeds a share of its maximum (paper, H.1: 2 %).

    What is under it is darkened when a crop is shown with its mask.
    """
    at = (torch.arange(MASK_CELLS, device=heat.device) + 0.5) / MASK_CELLS
    left, top, right, bottom = box.unbind(1)
    rows = (top[:, None] + at * (bottom - top)[:, None]).long()
    columns = (left[:, None] + at * (right - left)[:, None]).long()
    each = torch.arange(len(heat), device=heat.device)[:, None, None]
    picked = heat[each, rows[:, :, None], columns[:, None, :]]
    return picked > threshold * heat.amax((1, 2))[:, None, None]
