"""Rules for elementwise functions and for normalisations over the activations of one sample.

Functions follow the identity rule, ``R_in = R_out`` (Achtibat et al. 2024, Eq. 9): in the
form relevance / activation this is a multiplication by ``f(x) / x``. A normalisation's standard
deviation is treated as a constant (Prop. 3.4): dividing by it conserves relevance, so that only
the subtraction of the mean is propagated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import OpNode, execute
from semlens.relevance.rules.base import NodeSignals, Rule

aten = torch.ops.aten

_TINY = 1e-12


def _gelu(node: OpNode, x: Tensor, y: Tensor) -> Tensor:
    if node.kwargs.get("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return 0.5 * (1 + torch.tanh(inner))
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _slope_at_zero(slope: float) -> Callable[[OpNode, Tensor, Tensor], Tensor]:
    def share(node: OpNode, x: Tensor, y: Tensor) -> Tensor:
        near_zero = x.abs() < _TINY
        return torch.where(near_zero, slope, y / torch.where(near_zero, 1, x))

    return share


SHARES: Mapping[Any, Callable[[OpNode, Tensor, Tensor], Tensor]] = {
    aten.relu.default: lambda _, x, y: (x > 0).to(x.dtype),
    aten.silu.default: lambda _, x, y: torch.sigmoid(x),
    aten.gelu.default: _gelu,
    aten.hardswish.default: lambda _, x, y: functional.relu6(x + 3) / 6,
    aten.mish.default: lambda _, x, y: torch.tanh(functional.softplus(x)),
    aten.leaky_relu.default: _slope_at_zero(0.0),
    aten.prelu.default: _slope_at_zero(0.0),
    aten.elu.default: _slope_at_zero(1.0),
    aten.selu.default: _slope_at_zero(1.0),
    aten.celu.default: _slope_at_zero(1.0),
    aten.tanh.default: _slope_at_zero(1.0),
    aten.hardtanh.default: _slope_at_zero(1.0),
    aten.relu6.default: _slope_at_zero(1.0),
}
"""``f(x) / x`` of each function that is zero at zero, with the limit at zero."""


class Activation(Rule):
    """An elementwise function."""

    windowed = True

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value and ``f(x) / x``."""
        y = execute(self.node, values, torch.empty(0))
        return y, SHARES[self.node.target](self.node, values[self.node.args[0]], y)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate all of the relevance."""
        return [(self.node.args[0], signal.multiply(saved))]


class Taylor(Rule):
    """The plain gradient of a function that is not zero at zero (softmax, sigmoid).

    First-order Taylor expansion; its constant term absorbs part of the relevance (Achtibat et
    al. 2024, Eq. 13).
    """

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, twice."""
        y = execute(self.node, values, torch.empty(0))
        return y, y

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Multiply by the derivative."""
        y, g = saved, signal.values
        if "softmax" in str(self.node.target):
            # the axis was counted without the leading axis of seeds
            axis = int(self.node.args[1])
            axis = axis if axis < 0 else axis + 1
            passed = y * (g - (g * y).sum(axis, keepdim=True))
        else:
            passed = g * y * (1 - y)
        return [(self.node.args[0], BackwardSignal(passed))]


class LayerNorm(Rule):
    """``y = w (x - mean) / sd + b`` over the last axes, with ``sd`` constant.

    Also RMS normalisation, which does not subtract the mean.
    """

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value and ``1 / sd``."""
        node = self.node
        x: Tensor = values[node.arg(0)]
        axes = tuple(range(-len(node.arg(1)), 0))
        if node.target == aten.rms_norm.default:
            given_eps = node.arg(3)
            eps = torch.finfo(x.dtype).eps if given_eps is None else given_eps
            scale = torch.rsqrt(x.square().mean(axes, keepdim=True) + eps)
        else:
            eps = node.arg(4, 1e-5)
            scale = torch.rsqrt(x.var(axes, unbiased=False, keepdim=True) + eps)
        return execute(node, values, torch.empty(0)), scale

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate through the scale and the subtraction of the mean."""
        node = self.node
        weight = node.arg(2)
        g = signal.values * saved
        if weight is not None:
            g = g * weight
        if node.target != aten.rms_norm.default:
            g = g - g.mean(tuple(range(-len(node.arg(1)), 0)), keepdim=True)
        return [(node.arg(0), BackwardSignal(g))]


class GroupNorm(Rule):
    """``y = w (x - mean) / sd + b`` over groups of channels and all positions, ``sd`` constant."""

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value and ``1 / sd`` [U groups 1]."""
        x: Tensor = values[self.node.arg(0)]
        groups = self.node.arg(1)
        eps = self.node.arg(4, 1e-5)
        groups_of_values = x.unflatten(1, (groups, -1)).flatten(2)
        scale = torch.rsqrt(groups_of_values.var(2, unbiased=False, keepdim=True) + eps)
        return execute(self.node, values, torch.empty(0)), scale

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate through the scale and the subtraction of the mean."""
        weight = self.node.arg(2)
        g = signal.values
        if weight is not None:
            g = g * weight.view(-1, *[1] * (g.ndim - 3))
        grouped = g.unflatten(2, (self.node.arg(1), -1)).flatten(3) * saved
        grouped = grouped - grouped.mean(-1, keepdim=True)
        return [(self.node.arg(0), BackwardSignal(grouped.reshape(g.shape)))]
