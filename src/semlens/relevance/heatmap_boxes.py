"""From a heatmap to a box: up-sample, blur, keep what exceeds a share of the maximum.

All three are linear and separable but the last, so a heatmap is two small matrix
products: ``rows @ map @ columns.T``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from semlens.relevance.canonicalize import CONV, padded_conv2d
from semlens.relevance.captured_graph import CapturedGraph, OpNode, pair
from semlens.relevance.rules.activation import SHARES

aten = torch.ops.aten

_BY_ELEMENT = {
    *SHARES, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.sigmoid.default,
    aten.hardsigmoid.default,
}  # fmt: skip
_Reach = tuple[int, int, int]
"""Along one axis: stride, first pixel for position zero, number of pixels."""


@dataclass(frozen=True)
class ReceptiveField:
    """Position ``p`` of a layer sees pixels ``p * stride + first`` to ``+ size - 1``.

    Parameters
    ----------
    stride, first, size
        In pixels, down and to the right.
    """

    stride: tuple[int, int]
    first: tuple[int, int]
    size: tuple[int, int]


def receptive_field(graph: CapturedGraph, target: OpNode) -> ReceptiveField | None:
    """Return what a node's positions see of the image, or None when that has no bound."""
    reach: dict[OpNode, tuple[_Reach, _Reach]] = {target: ((1, 0, 1), (1, 0, 1))}
    for node in reversed(graph.needed([target])):
        if not node.live or node is graph.input or node not in reach:
            continue
        found = _below(node, reach[node])
        for source in node.live_inputs():
            joined = found and _joined(reach.get(source, found), found)
            if joined is None:
                return None
            reach[source] = joined
    rows, columns = reach[graph.input]
    return ReceptiveField(*((rows[i], columns[i]) for i in range(3)))  # type: ignore[arg-type]


def _below(node: OpNode, reach: tuple[_Reach, _Reach]) -> tuple[_Reach, _Reach] | None:
    """Return what is seen of a node's inputs."""
    if node.target in _BY_ELEMENT or (node.target == aten.cat.default and node.arg(1, 0) == 1):
        return reach if _same_everywhere(node) else None
    if node.target in CONV and not isinstance(node.arg(4, 0), str):
        kernel: Sequence[int] = node.arg(1).shape[-2:]
        padding = node.arg(4, 0)
        before = padding[0] if node.target is padded_conv2d else padding
        return _slid(reach, kernel, node.arg(3, 1), before, node.arg(5, 1))
    if node.target == aten.max_pool2d.default and not node.arg(5):
        kernel = pair(node.arg(1))
        return _slid(reach, kernel, node.arg(2) or kernel, node.arg(3, 0), node.arg(4, 1))
    return None


def _same_everywhere(node: OpNode) -> bool:
    """Whether a node's constants know no positions: a patch has others than the image."""
    leaves = [*tree_leaves(node.args), *tree_leaves(node.kwargs)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.numel() > 1]
    plain = all(tensor.ndim >= 2 and tensor.shape[-2:] == (1, 1) for tensor in tensors)
    return plain and all(source.live for source in node.inputs())


def _slid(
    reach: tuple[_Reach, _Reach], kernel: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> tuple[_Reach, _Reach]:
    found: list[_Reach] = []
    for axis in (0, 1):
        (every, first, size), step = reach[axis], pair(stride)[axis]
        wide = (size - 1) * step + pair(dilation)[axis] * (kernel[axis] - 1) + 1
        found.append((every * step, first * step - pair(padding)[axis], wide))
    return found[0], found[1]


def _joined(
    one: tuple[_Reach, _Reach], other: tuple[_Reach, _Reach]
) -> tuple[_Reach, _Reach] | None:
    found: list[_Reach] = []
    for (stride, first, size), (stride2, first2, size2) in zip(one, other, strict=True):
        if stride != stride2:
            return None
        start = min(first, first2)
        found.append((stride, start, max(first + size, first2 + size2) - start))
    return found[0], found[1]


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
