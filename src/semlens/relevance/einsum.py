"""Rewriting ``einsum`` as matrix products, which have relevance rules.

Each product of two operands is ``a[batch, rows, summed] @ b[batch, summed, columns]``: labels in
both operands and in the result are the batch, labels in both but not in the result are summed.
With constant weights and no batch it is a dense layer.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from semlens.relevance.captured_graph import OpNode

aten = torch.ops.aten


def matrix_products(node: OpNode) -> list[OpNode]:
    """Change an ``einsum`` to its last step, and return the nodes of the steps before it.

    The node stays as it is, without any, if the equation has diagonals or broadcasts sizes of 1.
    """
    equation, operands = node.args[:2]
    labels, result = _labels(equation.replace(" ", ""), [len(x.shape) for x in operands])
    steps, sizes = _Steps(node), dict[str, int]()
    for x, of_axes in zip(operands, labels, strict=True):
        for label, size in zip(of_axes, x.shape, strict=True):
            if sizes.setdefault(label, size) != size or of_axes.count(label) > 1:
                return []
    x, axes = operands[0], labels[0]
    for number in range(1, len(operands)):
        later = "".join([*labels[number + 1 :], result])
        x, axes = steps.contract(x, axes, operands[number], labels[number], later, sizes)
    x, axes = steps.sum(x, axes, result)
    steps.add(aten.permute.default, x, [axes.index(label) for label in result])
    *before, last = steps.nodes
    node.target, node.args, node.kwargs = last.target, last.args, {}
    return before


def _labels(equation: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """Return one letter for each axis of the operands, and for those of the result."""
    inputs, arrow, result = equation.partition("->")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    operands: list[str] = []
    longest = ""
    for text, ndim in zip(inputs.split(","), ndims, strict=True):
        count = ndim - len(text.replace("...", "")) if "..." in text else 0
        hidden = "".join(free[:count][::-1])  # aligned at the last of them
        longest = max(longest, hidden, key=len)
        operands.append(text.replace("...", hidden))
    if not arrow:
        letters = sorted(inputs.replace("...", "").replace(",", ""))
        result = "..." + "".join(letter for letter in letters if letters.count(letter) == 1)
    return operands, result.replace("...", longest)


@dataclass
class _Steps:
    """The operations that replace a node; on constants they are computed at once."""

    node: OpNode
    nodes: list[OpNode] = field(default_factory=list[OpNode])

    def add(self, target: Any, *args: Any) -> Any:
        """Append an operation, or compute it if its first argument is a constant."""
        if isinstance(args[0], Tensor):
            return target(*args)
        name = f"{self.node.name}_{len(self.nodes)}"
        self.nodes.append(OpNode(name, target, args, {}, self.node.scopes))
        return self.nodes[-1]

    def sum(self, x: Any, axes: str, kept: str) -> tuple[Any, str]:
        """Sum over the axes whose labels are not kept."""
        gone = [axis for axis, label in enumerate(axes) if label not in kept]
        if gone:
            x = self.add(aten.sum.dim_IntList, x, gone)
        return x, "".join(label for label in axes if label in kept)

    def arrange(self, x: Any, axes: str, *groups: str) -> Any:
        """Order axes by group, and make each group but the first one axis."""
        order = "".join(groups)
        if order != axes:
            x = self.add(aten.permute.default, x, [axes.index(label) for label in order])
        start = len(groups[0])
        for axis, group in enumerate(groups[1:], start):
            if not group:
                x = self.add(aten.unsqueeze.default, x, axis)
            elif len(group) > 1:
                x = self.add(aten.flatten.using_ints, x, axis, axis + len(group) - 1)
        return x

    def separate(self, x: Any, axis: int, group: str, sizes: dict[str, int]) -> Any:
        """Undo :meth:`arrange` for one group."""
        if not group:
            return self.add(aten.squeeze.dim, x, axis)
        if len(group) > 1:
            x = self.add(aten.unflatten.int, x, axis, [sizes[label] for label in group])
        return x

    def contract(
        self, a: Any, a_axes: str, b: Any, b_axes: str, kept: str, sizes: dict[str, int]
    ) -> tuple[Any, str]:
        """Multiply two operands, and sum over the labels that are not kept."""
        a, a_axes = self.sum(a, a_axes, b_axes + kept)
        b, b_axes = self.sum(b, b_axes, a_axes + kept)
        if isinstance(a, Tensor):
            a, a_axes, b, b_axes = b, b_axes, a, a_axes
        both = [label for label in a_axes if label in b_axes]
        batch = "".join(label for label in both if label in kept)
        summed = "".join(label for label in both if label not in kept)
        rows = "".join(label for label in a_axes if label not in b_axes)
        columns = "".join(label for label in b_axes if label not in a_axes)
        if isinstance(b, Tensor) and not batch:
            a = self.arrange(a, a_axes, rows, summed)
            b = self.arrange(b, b_axes, "", columns, summed)
            x = self.add(aten.linear.default, a, b)
        else:
            a = self.arrange(a, a_axes, batch, rows, summed)
            b = self.arrange(b, b_axes, batch, summed, columns)
            x = self.add(aten.matmul.default, a, b)
            x = self.separate(x, len(batch), rows, sizes)
        x = self.separate(x, len(batch) + len(rows), columns, sizes)
        return x, batch + rows + columns
