"""Rules for weighted sums: epsilon, gamma, z+ and flat, for convolutions and dense layers.

Each rule is written for any weighted sum ``y = w x + b``: it decides which weights multiply which
part of the input, and the operator applies the weights forwards and transposed. Sources: Bach et
al. 2015 (epsilon), Montavon et al. 2019 (gamma, its form for inputs and outputs of both signs as
in zennit), Montavon et al. 2017 (z+), Lapuschkin et al. 2019 (flat); the composite is the paper's
(H.1).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import OpNode
from semlens.relevance.rules.base import NodeSignals, Rule, share_kept
from semlens.relevance.rules.operators import Convolution, weights_operator


class Affine(Rule):
    """Base of the rules for a weighted sum with constant weights.

    Parameters
    ----------
    node
        A convolution or dense layer, with or without a ReLU.
    nonnegative
        Whether the input can never be negative.
    epsilon
        Stabiliser of the denominators.
    """

    def __init__(self, node: OpNode, nonnegative: bool, epsilon: float) -> None:
        super().__init__(node)
        self.operator = weights_operator(node)
        self.windowed = self.operator.windowed
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
