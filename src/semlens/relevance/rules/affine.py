"""The rules for weighted sums: epsilon, gamma, z+ and flat, for convolutions and dense layers.

Each is written for any weighted sum ``y = w x + b``: it says which weights multiply which part
of the input, and the operator does the sums and goes back through the weights. Sources: Bach et
al. 2015 (epsilon), Montavon et al. 2019 (gamma, its form for inputs and outputs of both signs as
in zennit), Montavon et al. 2017 (z+), Lapuschkin et al. 2019 (flat); the composite is the paper's
(H.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from semlens.relevance.captured_graph import OpNode, pair
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.relevance.rules.base import Rule, Sent, stabilised


class Dense:
    """A dense layer: float[U ... i] to float[U ... o]."""

    def __init__(self, node: OpNode) -> None:
        self.weight: Tensor = node.arg(1)
        self.bias: Tensor | None = node.arg(2)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply weights [o i]."""
        return functional.linear(x, weight, bias)

    def back(self, flow: RelevanceSignal, weight: Tensor, shape: Sequence[int]) -> RelevanceSignal:
        """Apply the transposed weights."""
        return RelevanceSignal(flow.values @ weight)

    def format(self, weight: Tensor) -> Tensor:
        """Return the weights as they are."""
        return weight


class Convolution:
    """A two-dimensional convolution, with groups, stride and dilation."""

    def __init__(self, node: OpNode) -> None:
        self.weight: Tensor = self.format(node.arg(1))
        self.bias: Tensor | None = node.arg(2)
        self.stride, self.dilation = pair(node.arg(3, 1)), pair(node.arg(5, 1))
        self.groups: int = node.arg(6, 1)
        self.padding, after = _padding(node.arg(4, 0), self.weight.shape[-2:], self.dilation)
        self.uneven = tuple(b - a for a, b in zip(self.padding, after, strict=True))

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with weights [o i/groups h w]."""
        if any(self.uneven):
            x = functional.pad(x, (0, self.uneven[1], 0, self.uneven[0]))
        return functional.conv2d(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )

    def back(self, flow: RelevanceSignal, weight: Tensor, shape: Sequence[int]) -> RelevanceSignal:
        """Convolve with the transposed weights; a window grows by the kernel."""
        return self._transposed(flow, weight, shape, self.groups)

    def spread(self, ones: Tensor) -> Tensor:
        """Count the pixels under each position of the kernel."""
        kernel = ones.new_ones(1, 1, *self.weight.shape[-2:])
        if any(self.uneven):
            ones = functional.pad(ones, (0, self.uneven[1], 0, self.uneven[0]))
        return functional.conv2d(ones, kernel, None, self.stride, self.padding, self.dilation)

    def gather(self, flow: RelevanceSignal, shape: Sequence[int]) -> RelevanceSignal:
        """Sum over the kernel's positions."""
        kernel = flow.values.new_ones(1, 1, *self.weight.shape[-2:])
        return self._transposed(flow, kernel, shape, 1)

    def format(self, weight: Tensor) -> Tensor:
        """Put the channels last, which convolutions on CPU and GPU are fastest with."""
        return weight.contiguous(memory_format=torch.channels_last)

    def _transposed(
        self, flow: RelevanceSignal, weight: Tensor, shape: Sequence[int], groups: int
    ) -> RelevanceSignal:
        if flow.corner is None:
            size = (shape[-2], shape[-1])
            full = [
                (place - 1) * stride + dilation * (width - 1) + 1
                for place, stride, dilation, width in zip(
                    flow.window, self.stride, self.dilation, weight.shape[-2:], strict=True
                )
            ]
            if self._is_point(weight, groups):
                return flow.like(self._strided_point(flow.flat(), weight, size))
            # positions that no kernel reaches: stride leaves them over, or uneven padding
            missing = [
                max(0, length - (got - 2 * pad))
                for length, got, pad in zip(size, full, self.padding, strict=True)
            ]
            out = functional.conv_transpose2d(
                flow.flat(), weight, None, self.stride, self.padding,
                [min(m, s - 1) for m, s in zip(missing, self.stride, strict=True)],
                groups, self.dilation,
            )  # fmt: skip
            return flow.like(_cropped(out, size))
        if self._is_point(weight, groups):
            size = tuple((p - 1) * s + 1 for p, s in zip(flow.window, self.stride, strict=True))
            out = self._strided_point(flow.flat(), weight, size)
        else:
            out = functional.conv_transpose2d(
                flow.flat(), weight, None, self.stride, 0, 0, groups, self.dilation
            )
        device = flow.corner.device
        corner = flow.corner * torch.tensor(self.stride, device=device)
        return flow.like(out, corner - torch.tensor(self.padding, device=device))

    def _is_point(self, weight: Tensor, groups: int) -> bool:
        """Whether the kernel is a 1 x 1 one with a stride, which most positions never see."""
        plain = groups == 1 and max(self.padding) == 0
        return plain and tuple(weight.shape[-2:]) == (1, 1) and max(self.stride) > 1

    def _strided_point(self, flat: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
        small = functional.conv2d(flat, weight.transpose(0, 1))
        out = small.new_zeros(len(flat), weight.shape[1], *size)
        out = out.contiguous(memory_format=torch.channels_last)
        rows, columns = (
            (n - 1) * s + 1 for n, s in zip(small.shape[-2:], self.stride, strict=True)
        )
        out[:, :, : rows : self.stride[0], : columns : self.stride[1]] = small
        return out


def _cropped(out: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring maps to ``size``, with zeros or without what is too much."""
    more = (size[0] - out.shape[-2], size[1] - out.shape[-1])
    return functional.pad(out, (0, more[1], 0, more[0])) if any(more) else out


def _padding(
    value: Any, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding before (top, left) and after (bottom, right)."""
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return value
    if value == "valid":
        return (0, 0), (0, 0)
    if value == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = (total[0] // 2, total[1] // 2)
        return before, (total[0] - before[0], total[1] - before[1])
    both = pair(value)
    return both, both


Operator = Dense | Convolution
"""``y = w x + b`` for one kind of weights."""


class Affine(Rule):
    """A weighted sum with constant weights.

    Parameters
    ----------
    node
        A ``conv2d`` or ``linear``, with or without a ReLU.
    nonnegative
        Whether the input is known never to be negative.
    epsilon
        Stabiliser of the denominators.
    """

    windowed = True

    def __init__(self, node: OpNode, nonnegative: bool, epsilon: float) -> None:
        super().__init__(node)
        dense = node.target == torch.ops.aten.linear.default
        self.operator: Operator = Dense(node) if dense else Convolution(node)
        self.source: OpNode = node.args[0]
        self.nonnegative = nonnegative
        self.epsilon = epsilon

    def output(self, x: Tensor) -> Tensor:
        """Return the node's value."""
        op = self.operator
        y = op.run(x, op.weight, op.bias)
        return y.relu_() if self.node.relu else y


class Epsilon(Affine):
    """``R_i = sum_j x_i w_ij R_j / (y_j + eps)`` (Bach et al. 2015, Eq. 58)."""

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node."""
        x = values[self.source]
        y = self.output(x)
        return y, (y / stabilised(y, self.epsilon), x.shape)

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Pass on by the weights as they are."""
        factor, shape = saved
        passed = self.operator.back(flow.times(factor), self.operator.weight, shape)
        return [(self.source, passed)]


class ZPlus(Affine):
    """Only what speaks for the output counts (Montavon et al. 2017, Eq. 13).

    ``R_i = sum_j (x_i w_ij)^+ R_j / sum_i (x_i w_ij)^+``; a positive bias takes its share.
    """

    def __init__(self, node: OpNode, nonnegative: bool, epsilon: float) -> None:
        super().__init__(node, nonnegative, epsilon)
        weight, bias = self.operator.weight, self.operator.bias
        self.positive = self.operator.format(weight.clamp(min=0))
        self.negative = None if nonnegative else self.operator.format(weight.clamp(max=0))
        self.bias = None if bias is None else bias.clamp(min=0)

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node and its denominators."""
        x, run = values[self.source], self.operator.run
        y = self.output(x)
        if self.negative is None:
            below, z = None, run(x, self.positive, self.bias)
        else:
            below = x < 0
            z = run(x.clamp(min=0), self.positive, self.bias)
            z += run(x.clamp(max=0), self.negative, None)
        factor = torch.div(y, z.add_(self.epsilon), out=z)  # z is never negative
        return y, (factor, x.shape, below)

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Pass on by the positive weights, or the negative ones where the input is negative."""
        factor, shape, below = saved
        scaled = flow.times(factor)
        passed = self.operator.back(scaled, self.positive, shape)
        if self.negative is not None:
            other = self.operator.back(scaled, self.negative, shape)
            passed = _either(below, other, passed)
        return [(self.source, passed)]


class Gamma(Affine):
    """Positive contributions count ``1 + gamma`` times (Montavon et al. 2019).

    For inputs of both signs, and outputs of both, the contributions that have the output's
    sign are the ones that are favoured.
    """

    def __init__(self, node: OpNode, nonnegative: bool, epsilon: float, gamma: float) -> None:
        super().__init__(node, nonnegative, epsilon)
        self.gamma = gamma
        weight, bias = self.operator.weight, self.operator.bias
        self.high = self.operator.format(weight + gamma * weight.clamp(min=0))
        self.low = self.operator.format(weight + gamma * weight.clamp(max=0))
        self.bias_high = None if bias is None else bias + gamma * bias.clamp(min=0)
        self.bias_low = None if bias is None else bias + gamma * bias.clamp(max=0)

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node and a denominator for either sign of it."""
        x, run = values[self.source], self.operator.run
        y = self.output(x)
        above, below = (x, None) if self.nonnegative else (x.clamp(min=0), x.clamp(max=0))
        up, down = run(above, self.high, self.bias_high), run(above, self.low, self.bias_low)
        if below is not None:
            up, down = up + run(below, self.low, None), down + run(below, self.high, None)
        factor_up = torch.where(y > 0, y, 0) / stabilised(up, self.epsilon)
        factor_down = torch.where(y < 0, y, 0) / stabilised(down, self.epsilon)
        return y, (factor_up, factor_down, x.shape, None if below is None else x < 0)

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Pass on by the weights that favour the sign of the output."""
        factor_up, factor_down, shape, below = saved
        up, down, back = flow.times(factor_up), flow.times(factor_down), self.operator.back
        passed = back(up, self.high, shape).plus(back(down, self.low, shape))
        if below is not None:
            other = back(up, self.low, shape).plus(back(down, self.high, shape))
            passed = _either(below, other, passed)
        return [(self.source, passed)]


class Flat(Affine):
    """Each output's relevance is spread evenly over its receptive field.

    For the layer that reads the pixels, whose values say little about importance
    (Lapuschkin et al. 2019). What it sends is relevance, summed over the input's channels.

    Parameters
    ----------
    image
        The node of the images, whose positions the layer's input has.
    """

    final: ClassVar[bool] = True
    operator: Convolution  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, node: OpNode, epsilon: float, image: OpNode) -> None:
        super().__init__(node, False, epsilon)
        self.image = image
        self._shares: dict[tuple[int, int], Tensor] = {}

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node, and keep the images' size."""
        y = self.output(values[self.source])
        return y, (y, self.size(values))

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Spread relevance over pixels: [n U 1 H W]."""
        y, size = saved
        relevance = flow.times(y)
        return self.spread(
            RelevanceSignal(relevance.values.sum(2, keepdim=True), relevance.corner), size
        )

    def size(self, values: dict[OpNode, Any]) -> tuple[int, int]:
        """Return height and width of the images."""
        shape = values[self.image].shape
        return (shape[-2], shape[-1])

    def spread(self, relevance: RelevanceSignal, size: tuple[int, int]) -> Sent:
        """Spread the relevance [n U 1 h w] of this layer's positions over images of ``size``."""
        if size not in self._shares:
            pixels = self.operator.spread(self.operator.weight.new_ones(1, 1, *size))
            self._shares[size] = 1 / pixels.clamp(min=1)
        even = relevance.times(self._shares[size])
        return [(self.source, self.operator.gather(even, (1, 1, *size)))]


def _either(mask: Tensor, first: RelevanceSignal, second: RelevanceSignal) -> RelevanceSignal:
    """Take ``first`` where bool[U ...] holds, else ``second``."""
    chosen = mask.to(first.values.dtype)
    return first.times(chosen).plus(second.times(1 - chosen))
