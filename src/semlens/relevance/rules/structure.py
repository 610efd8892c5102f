"""Operations that move, add or average values: the plain gradient is the rule.

For a weighted sum without weights of its own (a shortcut, a mean, a concatenation) that is
LRP's epsilon rule with epsilon zero; for the maximum, in a window or over the whole map, it is
winner takes all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from semlens.relevance.captured_graph import OpNode, execute, pair
from semlens.relevance.relevance_signal import RelevanceSignal, windows
from semlens.relevance.rules.affine import Flat
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

    def receivers(self) -> list[OpNode]:
        """Return what depends on the input."""
        if self.node.target == aten.where.self and isinstance(self.node.args[0], OpNode):
            return [n for n in self.node.args[1:] if isinstance(n, OpNode) and n.live]
        return self.node.live_inputs()

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node with a way back."""
        leaves: dict[OpNode, Tensor] = {}

        def leaf(node: OpNode) -> Any:
            value = values[node]
            if node not in leaves and node.live and is_float(value):
                leaves[node] = value.detach().requires_grad_()
            return leaves.get(node, value)

        with torch.enable_grad():
            args, kwargs = tree_map_only(OpNode, leaf, (self.node.args, self.node.kwargs))
            out = self.node.target(*args, **kwargs)
        return out.detach(), (out, leaves)

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Multiply by the derivative, all starts at once."""
        out, leaves = saved
        found: Any = torch.autograd.grad(
            out,
            list(leaves.values()),
            flow.values,
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        pairs = zip(leaves, cast("Sequence[Tensor | None]", found), strict=True)
        return [(node, RelevanceSignal(g)) for node, g in pairs if g is not None]


def is_float(value: Any) -> bool:
    """Whether a value is a tensor that derivatives exist for."""
    return isinstance(value, Tensor) and value.is_floating_point()


class Sum(Rule):
    """``a + alpha b`` and ``a - alpha b``: the epsilon rule with weights of one.

    Parameters
    ----------
    epsilon
        Stabiliser of the sum.
    """

    windowed = True

    def __init__(self, node: OpNode, epsilon: float) -> None:
        super().__init__(node)
        self.epsilon = epsilon
        alpha = node.kwargs.get("alpha", 1)
        self.weights = (1, -alpha if node.target == aten.sub.Tensor else alpha)

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node, and keep the terms' shapes."""
        y = execute(self.node, values, torch.empty(0))
        shapes = {
            x: values[x].shape for x in self.node.args[:2] if isinstance(x, OpNode) and x.live
        }
        return y, (y / stabilised(y, self.epsilon), shapes)

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
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
            passed = (
                scaled if weight == 1 else RelevanceSignal(scaled.values * weight, scaled.corner)
            )
            if shapes[source] != factor.shape:
                passed = RelevanceSignal(unbroadcast(passed.values, shapes[source]))
            sent.append((source, passed))
        return sent


class Reshape(Rule):
    """``view``, ``permute`` and ``transpose``: the same values in another order."""

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node and keep the input's shape."""
        return execute(self.node, values, torch.empty(0)), values[self.node.args[0]].shape

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
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
        return [(node.arg(0), RelevanceSignal(g))]


class Join(Rule):
    """``cat``: each part receives its own."""

    windowed = True

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node and keep the parts' lengths."""
        y = execute(self.node, values, torch.empty(0))
        axis = self.node.arg(1, 0)
        parts = [values[p] if isinstance(p, OpNode) else p for p in self.node.args[0]]
        return y, (axis % y.ndim + 1, [p.shape[axis] for p in parts])

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Cut the flow apart."""
        axis, lengths = saved
        if flow.corner is not None and axis != 2:
            raise ValueError("A window can only be cut along its channels.")
        parts = flow.values.split(lengths, axis)
        return [
            (source, RelevanceSignal(part, flow.corner))
            for source, part in zip(self.node.arg(0), parts, strict=True)
            if isinstance(source, OpNode) and source.live
        ]


RESHAPES = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
}


class MaxPool(Rule):
    """Each output sends everything to the input that was the largest.

    The winner is kept as its number within the kernel, one byte per output.
    """

    windowed = True

    def __init__(self, node: OpNode) -> None:
        super().__init__(node)
        self.source: OpNode = node.arg(0)
        self.kernel = pair(node.arg(1))
        self.stride = pair(node.arg(2) or node.arg(1))
        self.padding = pair(node.arg(3, 0))

    @staticmethod
    def handles(node: OpNode) -> bool:
        """Whether the kernel is a plain one: no dilation, no partial kernels, 255 at most."""
        size = pair(node.arg(1))
        plain = pair(node.arg(4, 1)) == (1, 1) and not node.arg(5)
        return plain and size[0] * size[1] <= 255

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node and who won."""
        x: Tensor = values[self.source]
        y, index = functional.max_pool2d(
            x, self.kernel, self.stride, self.padding, return_indices=True
        )
        width = x.shape[-1]
        rows = torch.arange(y.shape[-2], device=x.device) * self.stride[0] - self.padding[0]
        columns = torch.arange(y.shape[-1], device=x.device) * self.stride[1] - self.padding[1]
        down = torch.div(index, width, rounding_mode="floor") - rows[:, None]
        right = index % width - columns
        return y, ((down * self.kernel[1] + right).to(torch.uint8), x.shape)

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Send each value to its winner's place."""
        winner, shape = saved
        if flow.corner is not None:
            winner = windows(winner, flow.corner, flow.window)
        g = flow.values
        (high, wide), (down, right) = flow.window, self.stride
        out = g.new_zeros(*g.shape[:3], *self.covered(flow))
        for place in range(self.kernel[0] * self.kernel[1]):
            row, column = divmod(place, self.kernel[1])
            to = out[
                ..., row : row + (high - 1) * down + 1 : down,
                column : column + (wide - 1) * right + 1 : right,
            ]  # fmt: skip
            to += g * (winner == place)
        return [(self.source, self.placed(out, flow, shape))]

    def covered(self, flow: RelevanceSignal) -> tuple[int, int]:
        """Return how many of the input's rows and columns a flow's window reads."""
        (high, wide), (down, right) = flow.window, self.stride
        return (high - 1) * down + self.kernel[0], (wide - 1) * right + self.kernel[1]

    def placed(self, out: Tensor, flow: RelevanceSignal, shape: torch.Size) -> RelevanceSignal:
        """Return values over what a flow's window reads as a flow over an input of ``shape``."""
        padding = torch.tensor(self.padding, device=out.device)
        if flow.corner is not None:
            return RelevanceSignal(
                out, flow.corner * torch.tensor(self.stride, device=out.device) - padding
            )
        whole = RelevanceSignal(out, padding.neg().expand(*out.shape[:2], 2))
        return whole.whole((shape[-2], shape[-1]))


class PooledFlat(MaxPool):
    """Maximum pooling right behind a flat layer, in one step.

    The flat rule asks only for each position's relevance, so channels are summed before they
    are sent to the winners: the largest maps of a network are never made per start.

    Parameters
    ----------
    flat
        The rule of the layer whose outputs are pooled.
    """

    final: ClassVar[bool] = True

    def __init__(self, node: OpNode, flat: Flat) -> None:
        super().__init__(node)
        self.flat = flat

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node; keep its value and the images' size too."""
        y, (winner, shape) = super().forward(values)
        return y, (y, winner, shape, self.flat.size(values))

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Sum relevance over channels at the winners' places, and spread it."""
        y, winner, shape, pixels = saved
        relevance = flow.times(y).values
        if flow.corner is not None:
            winner = windows(winner, flow.corner, flow.window)
        (high, wide), (down, right) = flow.window, self.stride
        size = self.covered(flow)
        device = winner.device
        rows = torch.arange(high, device=device)[:, None] * down
        columns = torch.arange(wide, device=device) * right
        number = winner.clamp(max=self.kernel[0] * self.kernel[1] - 1).long()
        place = (rows + number // self.kernel[1]) * size[1] + columns + number % self.kernel[1]
        # channels last in memory, so that both are read in order
        source = relevance.movedim(2, -1).flatten(2)
        index = place.movedim(-3, -1).flatten(-3).expand(source.shape)
        out = source.new_zeros(*source.shape[:2], size[0] * size[1])
        out = out.scatter_add_(2, index, source).unflatten(2, (1, *size))
        return self.flat.spread(self.placed(out, flow, shape), pixels)
