"""Replacing operators of a captured graph by plainer ones that have relevance rules.

An expansion changes a node to its last step, and returns the nodes of the steps before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor

from semlens.relevance.captured_graph import OpNode
from semlens.relevance.einsum import matrix_products

aten = torch.ops.aten

SELECTIONS = (
    aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default, aten.max_pool3d_with_indices.default, aten.max.dim,
    aten.min.dim, aten.median.dim, aten.kthvalue.default, aten.topk.default, aten.sort.default,
    aten.sort.stable,
)  # fmt: skip
"""Operators that select values of their input, and return the values and their indices."""


@dataclass(frozen=True)
class SelectedValues:
    """A selection as an operator with one result, the values."""

    selection: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the selected values."""
        return self.selection(*args, **kwargs)[0]

    @property
    def overloadpacket(self) -> Any:
        """The operator without its overload."""
        return self.selection.overloadpacket


def _step(node: OpNode, name: str, target: Any, *args: Any) -> OpNode:
    return OpNode(f"{node.name}_{name}", target, args, {}, node.scopes)


def _change(node: OpNode, target: Any, *args: Any) -> None:
    node.target, node.args, node.kwargs = target, args, {}


def _addcmul(node: OpNode) -> list[OpNode]:
    product = _step(node, "mul", aten.mul.Tensor, *node.args[1:3])
    scale = node.kwargs.get("value", 1)
    _change(node, aten.add.Tensor, node.args[0], product)
    node.kwargs = {"alpha": scale} if scale != 1 else {}
    return [product]


def _addmm(node: OpNode) -> list[OpNode]:
    bias, x, weight = node.args[:3]
    if isinstance(weight, Tensor) and not node.kwargs:
        _change(node, aten.linear.default, x, weight.T, bias)
    return []


def _baddbmm(node: OpNode) -> list[OpNode]:
    if node.kwargs:
        return []
    product = _step(node, "bmm", aten.bmm.default, *node.args[1:3])
    _change(node, aten.add.Tensor, node.args[0], product)
    return [product]


def _matrix_product(node: OpNode) -> list[OpNode]:
    x, weight = node.args[:2]
    if isinstance(weight, Tensor) and weight.ndim == 2:
        _change(node, aten.linear.default, x, weight.T)
    return []


def _linear(node: OpNode) -> list[OpNode]:
    """Weights that depend on the image are a factor of a product."""
    x, weight, bias = node.arg(0), node.arg(1), node.arg(2)
    if not isinstance(weight, OpNode):
        return []
    flipped = _step(node, "t", aten.transpose.int, weight, -2, -1)
    if bias is None:
        _change(node, aten.matmul.default, x, flipped)
        return [flipped]
    product = _step(node, "mm", aten.matmul.default, x, flipped)
    _change(node, aten.add.Tensor, product, bias)
    return [flipped, product]


def _view(node: OpNode) -> list[OpNode]:
    node.target = aten.reshape.default  # no rule depends on the memory format
    return []


def _glu(node: OpNode) -> list[OpNode]:
    """Return the steps of ``a sigmoid(b)``, for the halves of an axis."""
    axis = node.arg(1, -1)
    half = node.shape[axis]
    value = _step(node, "value", aten.slice.Tensor, node.args[0], axis, 0, half)
    gate = _step(node, "gate", aten.slice.Tensor, node.args[0], axis, half, 2 * half)
    sigmoid = _step(node, "sigmoid", aten.sigmoid.default, gate)
    _change(node, aten.mul.Tensor, value, sigmoid)
    return [value, gate, sigmoid]


def _instance_norm(node: OpNode) -> list[OpNode]:
    """Use a group norm of single channels, or with stored statistics a batch norm."""
    x, weight, bias, mean, var, own_statistics, momentum, eps = node.args[:8]
    if own_statistics:
        _change(node, aten.group_norm.default, x, node.shape[1], weight, bias, eps)
    else:
        args = (x, weight, bias, mean, var, False, momentum, eps, False)
        _change(node, aten.batch_norm.default, *args)
    return []


def _getitem(node: OpNode) -> list[OpNode]:
    """Replace one result of an operator with several by an operation on the operator's input."""
    producer, index = node.args
    if not isinstance(producer, OpNode):
        return []
    source, target = producer.arg(0), producer.target
    if target == aten.unbind.int:
        axis = producer.arg(1, producer.kwargs.get("dim", 0))
        _change(node, aten.select.int, source, axis, index)
    elif target in (aten.split.Tensor, aten.split_with_sizes.default):
        axis, size = producer.arg(2, producer.kwargs.get("dim", 0)), producer.arg(1)
        sizes = [size] * (index + 1) if target == aten.split.Tensor else size
        _change(node, aten.slice.Tensor, source, axis, sum(sizes[:index]), sum(sizes[: index + 1]))
    elif target == aten.max_pool2d_with_indices.default and index == 0:
        _change(node, aten.max_pool2d.default, *producer.args)
    elif target in SELECTIONS and index == 0:
        _change(node, SelectedValues(target), *producer.args)
        node.kwargs = producer.kwargs
    return []


EXPANSIONS: Mapping[Any, Callable[[OpNode], list[OpNode]]] = {
    aten.addcmul.default: _addcmul,
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _baddbmm,
    aten.mm.default: _matrix_product,
    aten.matmul.default: _matrix_product,
    aten.linear.default: _linear,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.glu.default: _glu,
    aten.instance_norm.default: _instance_norm,
    aten.einsum.default: matrix_products,
    getitem: _getitem,
}
"""The expansion of each operator that has one."""
