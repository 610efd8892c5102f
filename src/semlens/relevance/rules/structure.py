"""Rules for operations that move, add or average values: the plain gradient.

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

from semlens.relevance.backward_signal import BackwardSignal, extract_windows
from semlens.relevance.captured_graph import OpNode, execute, pair
from semlens.relevance.expansions import SELECTIONS
from semlens.relevance.rules.affine import Flat
from semlens.relevance.rules.base import NodeSignals, Rule, share_kept, unbroadcast

aten = torch.ops.aten

_LINEAR = """
    view reshape _unsafe_view permute transpose t cat stack slice select expand squeeze unsqueeze
    flatten unflatten pad constant_pad_nd roll flip mean sum add sub neg rsub index index_select
    gather repeat masked_fill where slice_scatter avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d pixel_shuffle pixel_unshuffle
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
    upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d type_as _to_copy to movedim
    swapaxes channel_shuffle native_channel_shuffle im2col col2im
""".split()
_MAXIMUM = """
    max_pool1d max_pool2d max_pool3d amax amin maximum minimum abs
""".split()

LINEAR = {getattr(aten, name) for name in _LINEAR if hasattr(aten, name)}
"""Operators that are linear in one input-dependent argument while the others are constant."""

MAXIMUM = {getattr(aten, name) for name in _MAXIMUM if hasattr(aten, name)} | {
    selection.overloadpacket for selection in SELECTIONS
}
"""Positively homogeneous operators: the gradient sends all relevance to the winner."""


class Gradient(Rule):
    """The plain gradient, by automatic differentiation."""

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and what automatic differentiation needs."""
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

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Multiply by the derivative, for all seeds at once."""
        out, leaves = saved
        gradients: Any = torch.autograd.grad(
            out,
            list(leaves.values()),
            signal.values,
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
        )
        pairs = zip(leaves, cast("Sequence[Tensor | None]", gradients), strict=True)
        return [
            (node, BackwardSignal(gradient)) for node, gradient in pairs if gradient is not None
        ]


def is_float(value: Any) -> bool:
    """Whether a value is a floating-point tensor, which has derivatives."""
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
        """Return the node's value, ``y / (y + eps)`` and the shapes of the terms."""
        y = execute(self.node, values, torch.empty(0))
        shapes = {
            term: values[term].shape
            for term in self.node.args[:2]
            if isinstance(term, OpNode) and term.live
        }
        return y, (share_kept(y, self.epsilon), shapes)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate the same signal to both terms, summed where a term was broadcast."""
        factor, shapes = saved
        size = factor.shape[-2:]
        if signal.corner is not None and any(s[-2:] not in (size, (1, 1)) for s in shapes.values()):
            signal = signal.full_map((size[0], size[1]))
        scaled = signal.multiply(factor)
        result: NodeSignals = []
        for source, weight in zip(self.node.args[:2], self.weights, strict=True):
            if source not in shapes:
                continue
            passed = (
                scaled if weight == 1 else BackwardSignal(scaled.values * weight, scaled.corner)
            )
            if shapes[source] != factor.shape:
                passed = BackwardSignal(unbroadcast(passed.values, shapes[source]))
            result.append((source, passed))
        return result


class Reshape(Rule):
    """``view``, ``permute`` and ``transpose``: the same values in another order."""

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and the input's shape."""
        return execute(self.node, values, torch.empty(0)), values[self.node.args[0]].shape

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Undo the reordering."""
        node, g, shape = self.node, signal.values, saved
        if node.target == aten.permute.default:
            order = [axis % len(shape) for axis in node.args[1]]
            g = g.permute(0, *(order.index(axis) + 1 for axis in range(len(shape))))
        elif node.target == aten.transpose.int:
            first, second = (axis % len(shape) + 1 for axis in node.args[1:3])
            g = g.transpose(first, second)
        else:
            g = g.reshape(len(g), *shape)
        return [(node.arg(0), BackwardSignal(g))]


class Join(Rule):
    """``cat``: each input receives its own part of the signal."""

    windowed = True

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, the axis and lengths of its inputs, and the size of the map."""
        y = execute(self.node, values, torch.empty(0))
        axis = self.node.arg(1, 0)
        tensors = [
            values[tensor] if isinstance(tensor, OpNode) else tensor for tensor in self.node.args[0]
        ]
        return y, (axis % y.ndim + 1, [tensor.shape[axis] for tensor in tensors], y.shape[-2:])

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Split the signal; that of a window only along the channels, otherwise the whole map."""
        axis, lengths, size = saved
        if axis != 2:
            # parts of a map may have other strides, so that their windows could not be added
            signal = signal.full_map(size)
        pieces = signal.values.split(lengths, axis)
        return [
            (source, BackwardSignal(piece, signal.corner))
            for source, piece in zip(self.node.arg(0), pieces, strict=True)
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

    The winner is stored as its index within the kernel, one byte per output.
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
        """Whether the kernel has no dilation, no partial windows and at most 255 positions."""
        size = pair(node.arg(1))
        plain = pair(node.arg(4, 1)) == (1, 1) and not node.arg(5)
        return plain and size[0] * size[1] <= 255

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and the index of each winner within its kernel."""
        x: Tensor = values[self.source]
        y, index = functional.max_pool2d(
            x, self.kernel, self.stride, self.padding, return_indices=True
        )
        width, index = x.shape[-1], index.int()
        rows, columns = (
            torch.arange(length, dtype=torch.int32, device=x.device) * stride - pad
            for length, stride, pad in zip(y.shape[-2:], self.stride, self.padding, strict=True)
        )
        # (row - rows) * kernel width + column - columns, with one division
        row = index.div(width, rounding_mode="trunc")
        winner = index - row * (width - self.kernel[1])
        winner -= rows[:, None] * self.kernel[1] + columns
        return y, (winner.to(torch.uint8), x.shape)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Send each value to the position of its winner."""
        winner, shape = saved
        if signal.corner is not None:
            winner = extract_windows(winner, signal.corner, signal.window)
        g = signal.values
        (high, wide), (down, right) = signal.window, self.stride
        out = g.new_zeros(*g.shape[:3], *self.input_window(signal))
        # one strided view of the input window per kernel offset, so that each value is added at
        # exactly the position of its winner, and overlapping kernels accumulate
        for offset in range(self.kernel[0] * self.kernel[1]):
            row, column = divmod(offset, self.kernel[1])
            view = out[
                ..., row : row + (high - 1) * down + 1 : down,
                column : column + (wide - 1) * right + 1 : right,
            ]  # fmt: skip
            view += g * (winner == offset)
        return [(self.source, self.to_input(out, signal, shape))]

    def input_window(self, signal: BackwardSignal) -> tuple[int, int]:
        """Return how many rows and columns of the input a signal's window reads."""
        (high, wide), (down, right) = signal.window, self.stride
        return (high - 1) * down + self.kernel[0], (wide - 1) * right + self.kernel[1]

    def to_input(self, out: Tensor, signal: BackwardSignal, shape: torch.Size) -> BackwardSignal:
        """Return ``out``, over a signal's input window, as a signal for an input of ``shape``."""
        padding = torch.tensor(self.padding, device=out.device)
        if signal.corner is not None:
            return BackwardSignal(
                out, signal.corner * torch.tensor(self.stride, device=out.device) - padding
            )
        whole = BackwardSignal(out, padding.neg().expand(*out.shape[:2], 2))
        return whole.full_map((shape[-2], shape[-1]))


class PooledFlat(MaxPool):
    """Maximum pooling directly after a layer with the flat rule, in one step.

    The flat rule only needs the relevance of each position, so channels are summed while they are
    sent to the winners: the largest maps of a network are never allocated per seed.

    Parameters
    ----------
    flat
        The rule of the layer whose outputs are pooled.
    """

    ends_at_pixels: ClassVar[bool] = True

    def __init__(self, node: OpNode, flat: Flat) -> None:
        super().__init__(node)
        self.flat = flat

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value; its value, the winners and the images' size are saved."""
        y, (winner, shape) = super().forward(values)
        return y, (y, winner, shape, self.flat.size(values))

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Sum relevance over channels at the positions of the winners, and spread it."""
        y, winner, shape, pixels = saved
        relevance = signal.multiply(y).values
        if signal.corner is not None:
            winner = extract_windows(winner, signal.corner, signal.window)
        (high, wide), (down, right) = signal.window, self.stride
        covered = self.input_window(signal)
        device = winner.device
        rows = torch.arange(high, device=device)[:, None] * (down * covered[1])
        columns = torch.arange(wide, device=device) * right
        offset = torch.arange(self.kernel[0] * self.kernel[1], device=device)
        shift = offset // self.kernel[1] * covered[1] + offset % self.kernel[1]
        # a lookup is faster than dividing each winner
        index = winner.clamp(max=len(offset) - 1).int()
        position = shift.index_select(0, index.flatten()).view(index.shape) + (rows + columns)
        # scatter-add sums, over channels, all values whose winner has the same position; with
        # channels last in memory both operands are read in order
        relevance_rows = relevance.movedim(2, -1).flatten(2)
        position_rows = position.movedim(-3, -1).flatten(-3).expand(relevance_rows.shape)
        out = relevance_rows.new_zeros(*relevance_rows.shape[:2], covered[0] * covered[1])
        out = out.scatter_add_(2, position_rows, relevance_rows).unflatten(2, (1, *covered))
        return self.flat.spread(self.to_input(out, signal, shape), pixels)
