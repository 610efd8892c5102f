"""From heatmaps to boxes: up-sample, blur, and bound what exceeds a share of the maximum.

Up-sampling and blurring are linear and separable, so together they are two small matrix
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
from semlens.relevance.rules.base import SHARES

aten = torch.ops.aten

_ELEMENTWISE = {
    *SHARES, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.sigmoid.default,
    aten.hardsigmoid.default,
}  # fmt: skip
_AxisField = tuple[int, int, int]
"""Receptive field along one axis: stride, first pixel of position zero, number of pixels."""


@dataclass(frozen=True)
class ReceptiveField:
    """Position ``p`` of a layer depends on pixels ``p * stride + first`` to ``+ size - 1``.

    Parameters
    ----------
    stride, first, size
        In pixels, down and to the right.
    """

    stride: tuple[int, int]
    first: tuple[int, int]
    size: tuple[int, int]


def receptive_field(graph: CapturedGraph, target: OpNode) -> ReceptiveField | None:
    """Return the receptive field of a node's positions, or None if it is unbounded."""
    fields: dict[OpNode, tuple[_AxisField, _AxisField]] = {target: ((1, 0, 1), (1, 0, 1))}
    for node in reversed(graph.ancestors([target])):
        if not node.live or node is graph.input or node not in fields:
            continue
        field_below = _field_of_inputs(node, fields[node])
        for source in node.live_inputs():
            union = field_below and _union(fields.get(source, field_below), field_below)
            if union is None:
                return None
            fields[source] = union
    rows, columns = fields[graph.input]
    return ReceptiveField(*((rows[i], columns[i]) for i in range(3)))  # type: ignore[arg-type]


def _field_of_inputs(
    node: OpNode, field: tuple[_AxisField, _AxisField]
) -> tuple[_AxisField, _AxisField] | None:
    """Return the field over a node's inputs, given the field over its output."""
    if node.target in _ELEMENTWISE or (node.target == aten.cat.default and node.arg(1, 0) == 1):
        return field if _position_independent(node) else None
    if node.target in CONV and not isinstance(node.arg(4, 0), str):
        kernel: Sequence[int] = node.arg(1).shape[-2:]
        padding = node.arg(4, 0)
        padding_before = padding[0] if node.target is padded_conv2d else padding
        return _through_window(field, kernel, node.arg(3, 1), padding_before, node.arg(5, 1))
    if node.target == aten.max_pool2d.default and not node.arg(5):
        kernel = pair(node.arg(1))
        return _through_window(field, kernel, node.arg(2) or kernel, node.arg(3, 0), node.arg(4, 1))
    return None


def _position_independent(node: OpNode) -> bool:
    """Whether a node's constants are the same at all positions, so that patches can be used."""
    leaves = [*tree_leaves(node.args), *tree_leaves(node.kwargs)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.numel() > 1]
    plain = all(tensor.ndim >= 2 and tensor.shape[-2:] == (1, 1) for tensor in tensors)
    return plain and all(source.live for source in node.inputs())


def _through_window(
    field: tuple[_AxisField, _AxisField],
    kernel: Sequence[int],
    stride: Any,
    padding: Any,
    dilation: Any,
) -> tuple[_AxisField, _AxisField]:
    # position p reads p * stride - padding and on to + dilation * (kernel - 1); inserted into the
    # field of the output, strides multiply and extents add
    axes: list[_AxisField] = []
    for axis in (0, 1):
        (input_stride, first, size), window_stride = field[axis], pair(stride)[axis]
        extent = (size - 1) * window_stride + pair(dilation)[axis] * (kernel[axis] - 1) + 1
        axes.append(
            (input_stride * window_stride, first * window_stride - pair(padding)[axis], extent)
        )
    return axes[0], axes[1]


def _union(
    first_field: tuple[_AxisField, _AxisField], second_field: tuple[_AxisField, _AxisField]
) -> tuple[_AxisField, _AxisField] | None:
    axes: list[_AxisField] = []
    for (stride, first, size), (stride2, first2, size2) in zip(
        first_field, second_field, strict=True
    ):
        if stride != stride2:
            return None
        low = min(first, first2)
        axes.append((stride, low, max(first + size, first2 + size2) - low))
    return axes[0], axes[1]


def kernel_size(share: float, size: int) -> int:
    """Return the odd width of the blur kernel for ``size`` pixels (paper, H.1: 51 at 224)."""
    return 2 * round((share * size - 1) / 2) + 1 if share * size > 1 else 1


@lru_cache(maxsize=64)
def smoothing_matrix(cells: int, size: int, kernel: int) -> Float32[Tensor, "size cells"]:
    """Return the matrix that up-samples ``cells`` values to ``size`` and blurs them.

    Bilinear up-sampling (corners not aligned), then a Gaussian with reflected borders and
    the usual width for its kernel, ``0.3 * ((kernel - 1) / 2 - 1) + 0.8``.
    """
    # both steps are linear along the axis: applied to the identity, they give their matrix
    matrix = functional.interpolate(
        torch.eye(cells)[None], size=size, mode="linear", align_corners=False
    )[0]
    radius = min(kernel // 2, size - 1)
    if radius > 0:
        sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
        padded = functional.pad(matrix[None], (radius, radius), mode="reflect")
        matrix = functional.conv1d(padded[0][:, None], (weights / weights.sum())[None, None])[:, 0]
    return matrix.T.contiguous()


def upsample_and_blur(
    maps: Float32[Tensor, "n h w"],
    height: int,
    width: int,
    blur: float,
    slices: tuple[int, int] = (1, 1),
) -> Float32[Tensor, "n height width"]:
    """Up-sample and blur the positive part of activation maps to the input's size.

    Parameters
    ----------
    slices
        How many slices of a volume, below each other, the maps and the inputs are made of. They
        are smoothed along all three axes.
    """
    before, after = slices
    rows = smoothing_matrix(
        maps.shape[1] // before, height // after, kernel_size(blur, height // after)
    )
    rows = torch.kron(smoothing_matrix(before, after, kernel_size(blur, after)), rows)
    rows = rows.to(maps.device)
    columns = smoothing_matrix(maps.shape[2], width, kernel_size(blur, width)).to(maps.device)
    return rows @ maps.clamp(min=0) @ columns.T


def strongest_slices(
    heatmaps: Float32[Tensor, "n height width"], slices: int
) -> Float32[Tensor, "n height width"]:
    """Return heatmaps of volumes that are 0 outside of the slice with the largest value."""
    if slices == 1:
        return heatmaps
    by_slice = heatmaps.unflatten(1, (slices, -1))
    strongest = by_slice.amax((2, 3)).argmax(1)
    kept = torch.arange(slices, device=heatmaps.device) == strongest[:, None]
    return (by_slice * kept[:, :, None, None]).flatten(1, 2)


def bounding_boxes(
    heatmaps: Float32[Tensor, "n height width"], threshold: float
) -> Int64[Tensor, "n 4"]:
    """Bound the pixels that exceed ``threshold`` times the maximum of each map (paper, H.1).

    Returns
    -------
    Tensor
        Left, top, right and bottom in input pixels, the last two exclusive. For a map without a
        positive value, the whole input.
    """
    height, width = heatmaps.shape[1:]
    columns, rows = heatmaps.amax(1), heatmaps.amax(2)
    limit = threshold * rows.amax(1, keepdim=True)
    empty = (limit <= 0) if threshold > 0 else (rows.amax(1, keepdim=True) <= 0)
    columns_inside, rows_inside = (columns > limit) | empty, (rows > limit) | empty
    # argmax of booleans is the index of the first True; of the flipped ones, of the last
    left, top = columns_inside.int().argmax(1), rows_inside.int().argmax(1)
    right = width - columns_inside.flip(1).int().argmax(1)
    bottom = height - rows_inside.flip(1).int().argmax(1)
    return torch.stack([left, top, right, bottom], dim=1)


MASK_CELLS = 16
"""Cells of a display mask along each side of its box."""


def display_masks(
    heatmaps: Float32[Tensor, "n height width"], box: Int64[Tensor, "n 4"], threshold: float = 0.02
) -> Bool[Tensor, "n 16 16"]:
    """Sample, within each box, where a heatmap exceeds a share of its maximum (paper, H.1: 2 %).

    The rest of the box is darkened when a crop is shown with its mask.
    """
    centres = (torch.arange(MASK_CELLS, device=heatmaps.device) + 0.5) / MASK_CELLS
    left, top, right, bottom = box.unbind(1)
    rows = (top[:, None] + centres * (bottom - top)[:, None]).long()
    columns = (left[:, None] + centres * (right - left)[:, None]).long()
    # the centre of each of the 16 x 16 cells of the box, by broadcasting rows against columns
    index = torch.arange(len(heatmaps), device=heatmaps.device)[:, None, None]
    sampled = heatmaps[index, rows[:, :, None], columns[:, None, :]]
    return sampled > threshold * heatmaps.amax((1, 2))[:, None, None]
