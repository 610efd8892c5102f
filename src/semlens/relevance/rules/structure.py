"""Operations that move, add or average values: the plain gradient is the rule.

For a weighted sum without weights of its own (a shortcut, a mean, a concatenation) that is
LRP's epsilon rule with epsilon zero; for the maximum it is winner takes all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from semlens.relevance.flow import Flow
from semlens.relevance.graph import Node, execute, replaced
from semlens.relevance.rules.base import Rule, Sent, stabilised, unbroadcast

aten = torch.ops.aten

_LINEAR = """
    view reshape _unsafe_view permute transpose t cat stack slice select expand squeeze unsqueeze
    flatten unflatten pad constant_pad_nd roll flip mean sum add sub neg rsub index index_select
    gather repeat masked_fill where slice_scatter avg_pool1d avg_pool2d adaptive_avg_pool1d
    adaptive_avg_pool2d pixel_shuffle pixel_unshuffle upsample_bilinear2d upsample_nearest2d
    upsample_bicubic2d type_as _to_copy to movedim swapaxes channel_shuffle
    native_channel_shuffle im2col
""".split()
_MAXIMUM = """
    max_pool1d max_pool2d amax amin maximum minimum abs
""".split()

LINEAR = {getattr(aten, name) for name in _LINEAR if hasattr(aten, name)}
"""Linear in what depends on the input, as long as the rest does not."""

MAXIMUM = {getattr(aten, name) for name in _MAXIMUM if hasattr(aten, name)}
"""Positively homogeneous: the gradient passes all of the relevance to the winner."""


class Gradient(Rule):
    """The plain gradient, by automatic differentiation."""

    def receivers(self) -> list[Node]:
        """Return what depends on the input."""
        if self.node.target == aten.where.self and isinstance(self.node.args[0], Node):
            return [n for n in self.node.args[1:] if isinstance(n, Node) and n.live]
        return self.node.live_inputs()

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node with a way back."""
        leaves: dict[Node, Tensor] = {}

        def leaf(node: Node) -> Any:
            value = values[node]
            if node not in leaves and node.live and _is_float(value):
                leaves[node] = value.detach().requires_grad_()
            return leaves.get(node, value)

        with torch.enable_grad():
            args, kwargs = replaced((self.node.args, self.node.kwargs), leaf)
            out = self.node.target(*args, **kwargs)
        return out.detach(), (out, leaves)

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Multiply by the derivative, all starts at once."""
        out, leaves = saved
        sources = list(leaves.items())
        found: Any = torch.autograd.grad(
            out,
            [leaf for _, leaf in sources],
            flow.values,
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        pairs = zip(sources, cast("Sequence[Tensor | None]", found), strict=True)
        return [(node, Flow(g)) for (node, _), g in pairs if g is not None]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


class Sum(Rule):
    """``a + alpha b`` and ``a - alpha b``: the epsilon rule with weights of one.

    Parameters
    ----------
    epsilon
        Stabiliser of the sum.
    """

    windowed = True

    def __init__(self, node: Node, epsilon: float) -> None:
        super().__init__(node)
        self.epsilon = epsilon
        alpha = node.kwargs.get("alpha", 1)
        self.weights = (1, -alpha if node.target == aten.sub.Tensor else alpha)

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node, and keep the terms' shapes."""
        y = execute(self.node, values, torch.empty(0))
        terms = [x for x in self.node.args[:2] if isinstance(x, Node) and x.live]
        return y, (y / stabilised(y, self.epsilon), {x: values[x].shape for x in terms})

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Send the same to both, summed where a term was broadcast."""
        factor, shapes = saved
        size = factor.shape[-2:]
        if flow.corner is not None and any(s[-2:] not in (size, (1, 1)) for s in shapes.values()):
            flow = flow.whole((size[0], size[1]))
        scaled = flow.times(factor)
        sent: Sent = []
        for source, weight in zip(self.node.args[:2], self.weights, strict=True):
            if source not in shapes:
                continue
            passed = scaled if weight == 1 else Flow(scaled.values * weight, scaled.corner)
            if shapes[source] != factor.shape:
                passed = Flow(unbroadcast(passed.values, shapes[source]))
            sent.append((source, passed))
        return sent


class Reshape(Rule):
    """``view``, ``permute`` and ``transpose``: the same values in another order."""

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node and keep the input's shape."""
        return execute(self.node, values, torch.empty(0)), values[self.node.args[0]].shape

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Put the values back."""
        node, g, shape = self.node, flow.values, saved
        if node.target == aten.permute.default:
            order = [axis % len(shape) for axis in node.args[1]]
            g = g.permute(0, *(order.index(axis) + 1 for axis in range(len(shape))))
        elif node.target == aten.transpose.int:
            first, second = (axis % len(shape) + 1 for axis in node.args[1:3])
            g = g.transpose(first, second)
        else:
            g = g.reshape(len(g), *shape)
        return [(node.arg(0), Flow(g))]


class Join(Rule):
    """``cat``: each part receives its own."""

    windowed = True

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node and keep the parts' lengths."""
        y = execute(self.node, values, torch.empty(0))
        axis = self.node.arg(1, 0)
        parts = [values[p] if isinstance(p, Node) else p for p in self.node.args[0]]
        return y, (axis % y.ndim + 1, [p.shape[axis] for p in parts])

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Cut the flow apart."""
        axis, lengths = saved
        if flow.corner is not None and axis != 2:
            raise ValueError("A window can only be cut along its channels.")
        parts = flow.values.split(lengths, axis)
        return [
            (source, Flow(part, flow.corner))
            for source, part in zip(self.node.arg(0), parts, strict=True)
            if isinstance(source, Node) and source.live
        ]


RESHAPES = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
}
