"""The receptive field of a layer's positions, where it is a part of the image.

A convolution's cone: each position of the layer sees one rectangle of pixels, and nothing on
the way looks further (a mean over space, attention, or a squeeze-and-excite gate does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from semlens.relevance.graph import Graph, Node, pair
from semlens.relevance.rules.activation import SHARES
from semlens.relevance.simplify import CONV, padded_conv2d

aten = torch.ops.aten

_BY_ELEMENT = {
    *SHARES, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.sigmoid.default,
    aten.hardsigmoid.default,
}  # fmt: skip
_Reach = tuple[int, int, int]
"""Along one axis: stride, first pixel for position zero, number of pixels."""


@dataclass(frozen=True)
class Field:
    """Position ``p`` of a layer sees pixels ``p * stride + first`` to ``+ size - 1``.

    Parameters
    ----------
    stride, first, size
        In pixels, down and to the right.
    """

    stride: tuple[int, int]
    first: tuple[int, int]
    size: tuple[int, int]


def field_of(graph: Graph, target: Node) -> Field | None:
    """Return what a node's positions see of the image, or None when that has no bound."""
    reach: dict[Node, tuple[_Reach, _Reach]] = {target: ((1, 0, 1), (1, 0, 1))}
    for node in reversed(graph.needed([target])):
        if not node.live or node is graph.input or node not in reach:
            continue
        found = _below(node, reach[node])
        if found is None:
            return None
        for source in node.live_inputs():
            mine = reach.get(source)
            joined = found if mine is None else _joined(mine, found)
            if joined is None:
                return None
            reach[source] = joined
    rows, columns = reach[graph.input]
    return Field(*((rows[i], columns[i]) for i in range(3)))  # type: ignore[arg-type]


def _below(node: Node, reach: tuple[_Reach, _Reach]) -> tuple[_Reach, _Reach] | None:
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
        stride = node.arg(2) or node.arg(1)
        return _slid(reach, kernel, stride, node.arg(3, 0), node.arg(4, 1))
    return None


def _same_everywhere(node: Node) -> bool:
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
