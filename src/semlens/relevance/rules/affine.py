"""Rules for weighted sums: epsilon, gamma, z+ and flat, for convolutions and dense layers.

Each rule is written for any weighted sum ``y = w x + b``: it decides which weights multiply which
part of the input, and the operator applies the weights forwards and transposed. Sources: Bach et
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

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import OpNode, pair
from semlens.relevance.rules.base import NodeSignals, Rule, share_kept


class Dense:
    """Apply the weights of a dense layer: float[U ... i] to float[U ... o]."""

    def __init__(self, node: OpNode) -> None:
        self.weight: Tensor = node.arg(1)
        self.bias: Tensor | None = node.arg(2)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply weights [o i]."""
        return functional.linear(x, weight, bias)

    def apply_transposed(
        self, signal: BackwardSignal, weight: Tensor, shape: Sequence[int]
    ) -> BackwardSignal:
        """Apply the transposed weights."""
        return BackwardSignal(signal.values @ weight)

    def to_memory_format(self, weight: Tensor) -> Tensor:
        """Return the weights as they are."""
        return weight


class Convolution:
    """Apply the weights of a 2D convolution, with groups, stride and dilation."""

    def __init__(self, node: OpNode) -> None:
        self.weight: Tensor = self.to_memory_format(node.arg(1))
        self.bias: Tensor | None = node.arg(2)
        self.stride, self.dilation = pair(node.arg(3, 1)), pair(node.arg(5, 1))
        self.groups: int = node.arg(6, 1)
        self.padding, after = _padding_before_after(
            node.arg(4, 0), self.weight.shape[-2:], self.dilation
        )
        self.extra_padding = tuple(b - a for a, b in zip(self.padding, after, strict=True))

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with weights [o i/groups h w]."""
        if any(self.extra_padding):
            x = functional.pad(x, (0, self.extra_padding[1], 0, self.extra_padding[0]))
        return functional.conv2d(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )

    def apply_transposed(
        self, signal: BackwardSignal, weight: Tensor, shape: Sequence[int]
    ) -> BackwardSignal:
        """Apply the transposed convolution; a window grows by the kernel."""
        return self._transposed(signal, weight, shape, self.groups)

    def count_pixels(self, ones: Tensor) -> Tensor:
        """Count the input pixels under each position of the kernel."""
        kernel = ones.new_ones(1, 1, *self.weight.shape[-2:])
        if any(self.extra_padding):
            ones = functional.pad(ones, (0, self.extra_padding[1], 0, self.extra_padding[0]))
        return functional.conv2d(ones, kernel, None, self.stride, self.padding, self.dilation)

    def sum_over_kernel(self, signal: BackwardSignal, shape: Sequence[int]) -> BackwardSignal:
        """Sum over the kernel's positions."""
        kernel = signal.values.new_ones(1, 1, *self.weight.shape[-2:])
        return self._transposed(signal, kernel, shape, 1)

    def to_memory_format(self, weight: Tensor) -> Tensor:
        """Store the channels last, the fastest format for convolutions on CPU and GPU."""
        return weight.contiguous(memory_format=torch.channels_last)

    def _transposed(
        self, signal: BackwardSignal, weight: Tensor, shape: Sequence[int], groups: int
    ) -> BackwardSignal:
        if signal.corner is None:
            size = (shape[-2], shape[-1])
            full = [
                (cells - 1) * stride + dilation * (kernel - 1) + 1
                for cells, stride, dilation, kernel in zip(
                    signal.window, self.stride, self.dilation, weight.shape[-2:], strict=True
                )
            ]
            if self._is_point(weight, groups):
                return signal.from_batch(self._strided_point(signal.as_batch(), weight, size))
            # positions that no kernel reaches, because of the stride or uneven padding
            missing = [
                max(0, length - (reached - 2 * pad))
                for length, reached, pad in zip(size, full, self.padding, strict=True)
            ]
            result = functional.conv_transpose2d(
                signal.as_batch(), weight, None, self.stride, self.padding,
                [min(m, s - 1) for m, s in zip(missing, self.stride, strict=True)],
                groups, self.dilation,
            )  # fmt: skip
            return signal.from_batch(_pad_or_crop(result, size))
        if self._is_point(weight, groups):
            size = tuple((p - 1) * s + 1 for p, s in zip(signal.window, self.stride, strict=True))
            result = self._strided_point(signal.as_batch(), weight, size)
        else:
            result = functional.conv_transpose2d(
                signal.as_batch(), weight, None, self.stride, 0, 0, groups, self.dilation
            )
        device = signal.corner.device
        corner = signal.corner * torch.tensor(self.stride, device=device)
        return signal.from_batch(result, corner - torch.tensor(self.padding, device=device))

    def _is_point(self, weight: Tensor, groups: int) -> bool:
        """Whether this is a 1 x 1 kernel with a stride, which skips most positions."""
        plain = groups == 1 and max(self.padding) == 0
        return plain and tuple(weight.shape[-2:]) == (1, 1) and max(self.stride) > 1

    def _strided_point(self, batch: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
        dense = functional.conv2d(batch, weight.transpose(0, 1))
        result = dense.new_zeros(len(batch), weight.shape[1], *size)
        result = result.contiguous(memory_format=torch.channels_last)
        rows, columns = (
            (n - 1) * s + 1 for n, s in zip(dense.shape[-2:], self.stride, strict=True)
        )
        result[:, :, : rows : self.stride[0], : columns : self.stride[1]] = dense
        return result


def _pad_or_crop(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pad maps with zeros, or crop them, to ``size``."""
    missing = (size[0] - maps.shape[-2], size[1] - maps.shape[-1])
    return functional.pad(maps, (0, missing[1], 0, missing[0])) if any(missing) else maps


def _padding_before_after(
    value: Any, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding before (top, left) and after (bottom, right) the map."""
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return value
    if value == "valid":
        return (0, 0), (0, 0)
    if value == "same":
        padding = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = (padding[0] // 2, padding[1] // 2)
        return before, (padding[0] - before[0], padding[1] - before[1])
    symmetric = pair(value)
    return symmetric, symmetric


Operator = Dense | Convolution
"""Applies the weights of ``y = w x + b`` in both directions."""


class Affine(Rule):
    """Base of the rules for a weighted sum with constant weights.

    Parameters
    ----------
    node
        A ``conv2d`` or ``linear``, with or without a ReLU.
    nonnegative
        Whether the input can never be negative.
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
        """Compute the node's value."""
        operator = self.operator
        y = operator.apply(x, operator.weight, operator.bias)
        return y.relu_() if self.node.relu else y


class Epsilon(Affine):
    """``R_i = sum_j x_i w_ij R_j / (y_j + eps)`` (Bach et al. 2015, Eq. 58)."""

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and ``y / (y + eps)``."""
        x = values[self.source]
        y = self.output(x)
        return y, (share_kept(y, self.epsilon), x.shape)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate through the unchanged weights."""
        factor, shape = saved
        passed = self.operator.apply_transposed(
            signal.multiply(factor), self.operator.weight, shape
        )
        return [(self.source, passed)]


class ZPlus(Affine):
    """Only positive contributions count (Montavon et al. 2017, Eq. 13).

    ``R_i = sum_j (x_i w_ij)^+ R_j / sum_i (x_i w_ij)^+``; a positive bias absorbs its share.
    """

    def __init__(self, node: OpNode, nonnegative: bool, epsilon: float) -> None:
        super().__init__(node, nonnegative, epsilon)
        weight, bias = self.operator.weight, self.operator.bias
        self.positive_weight = self.operator.to_memory_format(weight.clamp(min=0))
        self.negative_weight = (
            None if nonnegative else self.operator.to_memory_format(weight.clamp(max=0))
        )
        self.bias = None if bias is None else bias.clamp(min=0)

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and ``y`` divided by the positive contributions."""
        x, apply = values[self.source], self.operator.apply
        y = self.output(x)
        if self.negative_weight is None:
            is_negative, z = None, apply(x, self.positive_weight, self.bias)
        else:
            is_negative = x < 0
            z = apply(x.clamp(min=0), self.positive_weight, self.bias)
            z += apply(x.clamp(max=0), self.negative_weight, None)
        factor = torch.div(y, z.add_(self.epsilon), out=z)  # z is never negative
        return y, (factor, x.shape, is_negative)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate through the positive weights, or the negative ones for negative inputs."""
        factor, shape, is_negative = saved
        scaled = signal.multiply(factor)
        passed = self.operator.apply_transposed(scaled, self.positive_weight, shape)
        if self.negative_weight is not None:
            from_negative = self.operator.apply_transposed(scaled, self.negative_weight, shape)
            passed = _where(is_negative, from_negative, passed)
        return [(self.source, passed)]


class Gamma(Affine):
    """Contributions with the sign of the output count ``1 + gamma`` times (Montavon et al. 2019).

    Notes
    -----
    Of the contributions ``c_ij = x_i w_ij`` to ``y_j`` and the bias, those with the sign of ``y_j``
    are half of ``c + sign(y_j) |c|`` each. So the rule needs two products, with ``w`` and with
    ``|w|``, for inputs and outputs of both signs::

        R_i = sum_j ((1 + gamma/2) c_ij + gamma/2 sign(y_j) |c_ij|) R_j / (sign(y_j) d_j)
        d_j = (1 + gamma/2) |y_j| + gamma/2 (sum_i |c_ij| + |b_j|) + eps

    All terms of the denominator have one sign, so it cannot cancel.
    """

    def __init__(self, node: OpNode, nonnegative: bool, epsilon: float, gamma: float) -> None:
        super().__init__(node, nonnegative, epsilon)
        self.gamma = gamma
        self.plain, self.favoured = 1 + gamma / 2, gamma / 2
        weight, bias = self.operator.weight, self.operator.bias
        self.absolute_weight = self.operator.to_memory_format(weight.abs())
        self.absolute_bias = None if bias is None else bias.abs()
        self.favouring_weight = (
            self.operator.to_memory_format(
                weight + self.favoured / self.plain * self.absolute_weight
            )
            if nonnegative and node.relu
            else None
        )
        """Weights that hold where all inputs and outputs are positive."""

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and the factors of both products."""
        x = values[self.source]
        y = self.output(x)
        size = self.operator.apply(
            x if self.nonnegative else x.abs(), self.absolute_weight, self.absolute_bias
        )
        factor = y.abs().mul_(self.plain)
        factor /= torch.add(factor, size, alpha=self.favoured, out=size).add_(self.epsilon)
        if self.favouring_weight is not None:
            return y, (factor, None, None, x.shape)
        signed_factor = (factor * (self.favoured / self.plain)).copysign_(y)
        sign = None if self.nonnegative else torch.ones_like(x).copysign_(x)
        return y, (factor, signed_factor, sign, x.shape)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate through the weights that favour the sign of the output."""
        factor, signed_factor, sign, shape = saved
        transposed, scaled = self.operator.apply_transposed, signal.multiply(factor)
        if self.favouring_weight is not None:
            return [(self.source, transposed(scaled, self.favouring_weight, shape))]
        favoured = transposed(signal.multiply(signed_factor), self.absolute_weight, shape)
        if sign is not None:
            favoured = favoured.multiply(sign)
        passed = transposed(scaled, self.operator.weight, shape)
        passed.values.add_(favoured.values)  # over the same window
        return [(self.source, passed)]


class Flat(Affine):
    """Each output's relevance is spread evenly over its receptive field.

    For the layer that reads the pixels, whose values say little about importance
    (Lapuschkin et al. 2019). The result is relevance, summed over the input's channels.

    Parameters
    ----------
    image
        The node of the images; the layer's input has the same positions.
    """

    ends_at_pixels: ClassVar[bool] = True
    operator: Convolution  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, node: OpNode, epsilon: float, image: OpNode) -> None:
        super().__init__(node, False, epsilon)
        self.image = image
        self._shares: dict[tuple[int, int], Tensor] = {}

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and the images' size."""
        y = self.output(values[self.source])
        return y, (y, self.size(values))

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Spread relevance over the pixels: [n U 1 H W]."""
        y, size = saved
        relevance = signal.multiply(y)
        return self.spread(
            BackwardSignal(relevance.values.sum(2, keepdim=True), relevance.corner), size
        )

    def size(self, values: dict[OpNode, Any]) -> tuple[int, int]:
        """Return the height and width of the images."""
        shape = values[self.image].shape
        return (shape[-2], shape[-1])

    def spread(self, relevance: BackwardSignal, size: tuple[int, int]) -> NodeSignals:
        """Spread relevance [n U 1 h w] of this layer's positions over images of ``size``."""
        if size not in self._shares:
            counts = self.operator.count_pixels(self.operator.weight.new_ones(1, 1, *size))
            self._shares[size] = 1 / counts.clamp(min=1)
        per_pixel = relevance.multiply(self._shares[size])
        return [(self.source, self.operator.sum_over_kernel(per_pixel, (1, 1, *size)))]


def _where(mask: Tensor, first: BackwardSignal, second: BackwardSignal) -> BackwardSignal:
    """Return ``first`` where the mask bool[U ...] is true, else ``second``."""
    weight = mask.to(first.values.dtype)
    return first.multiply(weight).add(second.multiply(1 - weight))
