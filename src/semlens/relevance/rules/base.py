"""Base class of relevance rules, and those of functions, normalisations and products.

Relevance ``R`` is carried as ``G = R / activation``. A rule that is linear in its input is
then a plain gradient, a shortcut needs no canonizer, and nothing is divided by small
activations on the way (Achtibat et al. 2024, App. B, do the same for the identity rule).

Elementwise functions follow the identity rule, ``R_in = R_out`` (Eq. 9): in the form relevance /
activation this is a multiplication by ``f(x) / x``. A normalisation's standard deviation is treated
as a constant (Prop. 3.4): dividing by it conserves relevance, so that only the subtraction of the
mean is propagated. In a product, a gate (a sigmoid, a norm's reciprocal, an attention weight under
CP-LRP) is a constant, and all relevance goes to the value that it gates. Otherwise both factors
receive half, the uniform rule (Eq. 15).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import OpNode, execute

NodeSignals = list[tuple[OpNode, BackwardSignal]]
"""The signal that each receiving node gets."""


class Rule(ABC):
    """How one node propagates relevance to the nodes that it reads.

    Parameters
    ----------
    node
        The operation that the rule belongs to.
    """

    windowed: bool = False
    """Whether :meth:`backward` accepts signals that cover only a window of the map."""
    ends_at_pixels: ClassVar[bool] = False
    """Whether :meth:`backward` returns relevance of pixels, to be added to the heatmap."""

    def __init__(self, node: OpNode) -> None:
        self.node = node

    def receivers(self) -> list[OpNode]:
        """Return the nodes that relevance is propagated to."""
        return self.node.live_inputs()

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value for U images, and what :meth:`backward` needs."""
        return execute(self.node, values, torch.empty(0)), None

    @abstractmethod
    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate a signal to the receivers; ``saved`` comes from :meth:`forward`."""


def share_kept(value: Tensor, epsilon: float) -> Tensor:
    """Return ``y / (y + epsilon sign(y))``, the share that a stabilised division leaves."""
    size = value.abs()
    return torch.div(size, size + epsilon, out=size)


def unbroadcast(g: Tensor, shape: torch.Size) -> Tensor:
    """Sum a signal [n U ...] to [n *shape], over the axes along which ``shape`` was broadcast."""
    missing = g.ndim - 1 - len(shape)
    if missing > 0:
        g = g.sum(tuple(range(1, 1 + missing)))
    pairs = zip(g.shape[1:], shape, strict=True)
    axes = tuple(axis + 1 for axis, (length, size) in enumerate(pairs) if size == 1 and length != 1)
    return g.sum(axes, keepdim=True) if axes else g


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


def _power(node: OpNode, x: Tensor, y: Tensor) -> Tensor:
    return _slope_at_zero(1.0 if node.args[1] == 1 else 0.0)(node, x, y)


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
    aten.clamp.default: _slope_at_zero(1.0),
    aten.clamp_min.default: _slope_at_zero(1.0),
    aten.clamp_max.default: _slope_at_zero(1.0),
    aten.pow.Tensor_Scalar: _power,
}
"""``f(x) / x`` of each function that is zero at zero, with the limit at zero."""


def _softplus_slope(node: OpNode, x: Tensor, y: Tensor) -> Tensor:
    beta, threshold = node.arg(1, 1), node.arg(2, 20)
    return torch.where(x * beta > threshold, 1, torch.sigmoid(beta * x))


def _inside_bounds(node: OpNode, x: Tensor, y: Tensor) -> Tensor:
    return (x == y).to(x.dtype)


SLOPES: Mapping[Any, Callable[[OpNode, Tensor, Tensor], Tensor]] = {
    aten.sigmoid.default: lambda _, x, y: y * (1 - y),
    aten.log_sigmoid.default: lambda _, x, y: torch.sigmoid(-x),
    aten.softplus.default: _softplus_slope,
    aten.threshold.default: lambda node, x, y: (x > node.args[1]).to(x.dtype),
    **dict.fromkeys((aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default),
                    _inside_bounds),
}  # fmt: skip
"""The derivative of each function that is not zero at zero; bounds may exclude zero."""
SOFTMAX = (aten.softmax.int, aten._softmax.default)
LOG_SOFTMAX = (aten.log_softmax.int, aten._log_softmax.default)


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
    """The plain gradient of a function that is not zero at zero (softmax, sigmoid, softplus).

    First-order Taylor expansion; its constant term absorbs part of the relevance (Achtibat et
    al. 2024, Eq. 13).
    """

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and its derivative or the softmax."""
        y = execute(self.node, values, torch.empty(0))
        if self.node.target in SOFTMAX:
            return y, y
        if self.node.target in LOG_SOFTMAX:
            return y, y.exp()
        return y, SLOPES[self.node.target](self.node, values[self.node.args[0]], y)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Multiply by the derivative."""
        g, is_log = signal.values, self.node.target in LOG_SOFTMAX
        if is_log or self.node.target in SOFTMAX:
            # the axis was counted without the leading axis of seeds
            axis = int(self.node.args[1])
            axis = axis if axis < 0 else axis + 1
            total = (g if is_log else g * saved).sum(axis, keepdim=True)
            passed = g - saved * total if is_log else saved * (g - total)
        else:
            passed = g * saved
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


Gate = Callable[[OpNode], bool]


class Product(Rule):
    """Elementwise ``a * b`` or ``a / b``, or the matrix product ``a @ b``."""

    def __init__(self, node: OpNode, gate: Gate) -> None:
        super().__init__(node)
        first, second = node.args[0], node.args[1]
        receives = [isinstance(x, OpNode) and x.live for x in (first, second)]
        if all(receives) and gate(first) != gate(second):
            receives = [gate(second), gate(first)]
        if node.target == aten.div.Tensor:
            receives[1] = False  # a divisor is treated as a constant
        self.receives = receives
        self.share = 1 / max(1, sum(receives))
        self.matrices = node.target in (aten.matmul.default, aten.bmm.default)
        self.windowed = sum(receives) == 1 and not self.matrices

    def receivers(self) -> list[OpNode]:
        """Return the factors that receive relevance."""
        return [self.node.args[i] for i in (0, 1) if self.receives[i]]

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and both factors."""
        a, b = (values[x] if isinstance(x, OpNode) else x for x in self.node.args[:2])
        y = execute(self.node, values, torch.empty(0))
        return y, (a, b, y.shape)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Multiply by the other factor, and by the share."""
        a, b, shape = saved
        if signal.corner is not None and not all(_fits_windows(x, shape) for x in (a, b)):
            signal = signal.full_map((shape[-2], shape[-1]))
        result: NodeSignals = []
        for index, (factor, other_factor) in enumerate(((a, b), (b, a))):
            if not self.receives[index]:
                continue
            if self.matrices:
                g = signal.values
                other_factor = other_factor.transpose(-1, -2)
                propagated = BackwardSignal(
                    unbroadcast(g @ other_factor if index == 0 else other_factor @ g, factor.shape)
                )
            else:
                divides = self.node.target == aten.div.Tensor
                propagated = _scaled(signal, 1 / other_factor if divides else other_factor, factor)
            if self.share != 1:
                propagated = BackwardSignal(propagated.values * self.share, propagated.corner)
            result.append((self.node.args[index], propagated))
        return result


def _fits_windows(factor: Any, shape: torch.Size) -> bool:
    """Whether a factor can be cut into windows: a map of ``shape``, or constant over space."""
    if not isinstance(factor, Tensor) or factor.numel() == 1:
        return True
    return factor.ndim >= 2 and factor.shape[-2:] in ((1, 1), shape[-2:])


def _scaled(signal: BackwardSignal, factor: Any, recipient: Tensor) -> BackwardSignal:
    if not isinstance(factor, Tensor):
        return BackwardSignal(signal.values * factor, signal.corner)
    scaled = signal.multiply(factor)
    if scaled.corner is not None and recipient.shape[-2:] != (1, 1):
        return scaled
    return BackwardSignal(unbroadcast(scaled.values, recipient.shape))


class Attention(Rule):
    """``softmax(q k' / sqrt(d)) v`` in one operator.

    Parameters
    ----------
    constant
        Whether attention weights are treated as constants (CP-LRP, Ali et al. 2022); otherwise
        AttnLRP's rules for both matrix products and the softmax apply (Achtibat et al. 2024).
    """

    def __init__(self, node: OpNode, constant: bool) -> None:
        super().__init__(node)
        self.constant = constant

    def receivers(self) -> list[OpNode]:
        """Return the values, and the queries and keys unless attention is constant."""
        queries, keys, values = self.node.args[:3]
        sources = [values] if self.constant else [queries, keys, values]
        return [source for source in sources if isinstance(source, OpNode) and source.live]

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Return the node's value, and its inputs and attention weights."""
        node = self.node
        q, k, v = (values[x] if isinstance(x, OpNode) else x for x in node.args[:3])
        names = ("attn_mask", "dropout_p", "is_causal")
        options = {**dict(zip(names, node.args[3:], strict=False)), **node.kwargs}
        scale = options.get("scale") or 1 / math.sqrt(q.shape[-1])
        scores, mask = q @ k.transpose(-1, -2) * scale, options.get("attn_mask")
        mask = values[mask] if isinstance(mask, OpNode) else mask
        if options.get("is_causal"):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -torch.inf)
        elif mask is not None:
            scores = scores + mask
        weights = scores.softmax(-1)
        return weights @ v, (q, k, v, weights, scale)

    def backward(self, saved: Any, signal: BackwardSignal) -> NodeSignals:
        """Propagate to the values, and half to queries and keys unless attention is constant."""
        q, k, v, weights, scale = saved
        queries, keys, values = self.node.args[:3]
        g = signal.values if self.constant else signal.values / 2
        result: NodeSignals = [(values, BackwardSignal(weights.transpose(-1, -2) @ g))]
        if not self.constant:
            weight_signal = g @ v.transpose(-1, -2)
            score_signal = (
                weights
                * (weight_signal - (weight_signal * weights).sum(-1, keepdim=True))
                * (scale / 2)
            )
            result.append((queries, BackwardSignal(unbroadcast(score_signal @ k, q.shape))))
            result.append((keys, BackwardSignal(score_signal.transpose(-1, -2) @ q)))
        return [
            (source, signal_part) for source, signal_part in result if source in self.receivers()
        ]
