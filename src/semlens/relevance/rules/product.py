"""Rules for products of two values that both depend on the input.

A gate (a sigmoid, a norm's reciprocal, an attention weight under CP-LRP) is treated as a constant:
all relevance goes to the value that it gates. Otherwise both factors receive
half, the uniform rule (Achtibat et al. 2024, Eq. 15).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import OpNode, execute
from semlens.relevance.rules.base import NodeSignals, Rule, unbroadcast

aten = torch.ops.aten

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

    @property
    def windowed(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Windows are supported if one factor is constant."""
        return sum(self.receives) == 1 and not self.matrices

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
