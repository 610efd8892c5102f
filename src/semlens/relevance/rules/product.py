"""Products of two values that both depend on the input.

A gate (a sigmoid, a norm's reciprocal, an attention weight under CP-LRP) is taken as constant:
all relevance goes to what it gates. Else both factors get half, the uniform rule (Achtibat et
al. 2024, Eq. 15).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semlens.relevance.captured_graph import OpNode, execute
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.relevance.rules.base import Rule, Sent, unbroadcast

aten = torch.ops.aten

Gate = Callable[[OpNode], bool]


class Product(Rule):
    """``a * b`` or ``a / b`` by elements, or the matrix product ``a @ b``."""

    def __init__(self, node: OpNode, gate: Gate) -> None:
        super().__init__(node)
        first, second = node.args[0], node.args[1]
        open_ = [isinstance(x, OpNode) and x.live for x in (first, second)]
        if all(open_) and gate(first) != gate(second):
            open_ = [gate(second), gate(first)]
        if node.target == aten.div.Tensor:
            open_[1] = False  # a divisor is taken as constant
        self.open = open_
        self.share = 1 / max(1, sum(open_))
        self.matrices = node.target in (aten.matmul.default, aten.bmm.default)

    @property
    def windowed(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Windows pass where one factor is constant."""
        return sum(self.open) == 1 and not self.matrices

    def receivers(self) -> list[OpNode]:
        """Return the factors that get relevance."""
        return [self.node.args[i] for i in (0, 1) if self.open[i]]

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node and keep both factors."""
        a, b = (values[x] if isinstance(x, OpNode) else x for x in self.node.args[:2])
        y = execute(self.node, values, torch.empty(0))
        return y, (a, b, y.shape)

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Multiply by the other factor, and by the share."""
        a, b, shape = saved
        if flow.corner is not None and not all(_fits(x, shape) for x in (a, b)):
            flow = flow.whole((shape[-2], shape[-1]))
        sent: Sent = []
        for place, (mine, other) in enumerate(((a, b), (b, a))):
            if not self.open[place]:
                continue
            if self.matrices:
                g = flow.values
                other = other.transpose(-1, -2)
                passed = RelevanceSignal(
                    unbroadcast(g @ other if place == 0 else other @ g, mine.shape)
                )
            else:
                divides = self.node.target == aten.div.Tensor
                passed = _scaled(flow, 1 / other if divides else other, mine)
            if self.share != 1:
                passed = RelevanceSignal(passed.values * self.share, passed.corner)
            sent.append((self.node.args[place], passed))
        return sent


def _fits(factor: Any, shape: torch.Size) -> bool:
    """Whether a factor can be cut to windows of a map: it is one, or the same everywhere."""
    if not isinstance(factor, Tensor) or factor.numel() == 1:
        return True
    return factor.ndim >= 2 and factor.shape[-2:] in ((1, 1), shape[-2:])


def _scaled(flow: RelevanceSignal, factor: Any, mine: Tensor) -> RelevanceSignal:
    if not isinstance(factor, Tensor):
        return RelevanceSignal(flow.values * factor, flow.corner)
    scaled = flow.times(factor)
    if scaled.corner is not None and mine.shape[-2:] != (1, 1):
        return scaled
    return RelevanceSignal(unbroadcast(scaled.values, mine.shape))


class Attention(Rule):
    """``softmax(q k' / sqrt(d)) v`` in one operator.

    Parameters
    ----------
    constant
        Whether the attention weights are constant (CP-LRP, Ali et al. 2022); else AttnLRP's
        rules for both matrix products and the softmax hold (Achtibat et al. 2024).
    """

    def __init__(self, node: OpNode, constant: bool) -> None:
        super().__init__(node)
        self.constant = constant

    def receivers(self) -> list[OpNode]:
        """Return the values, and queries and keys unless attention is constant."""
        queries, keys, values = self.node.args[:3]
        sources = [values] if self.constant else [queries, keys, values]
        return [source for source in sources if isinstance(source, OpNode) and source.live]

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node and its attention weights."""
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

    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Pass on to the values, and by halves to queries and keys."""
        q, k, v, weights, scale = saved
        queries, keys, values = self.node.args[:3]
        g = flow.values if self.constant else flow.values / 2
        sent: Sent = [(values, RelevanceSignal(weights.transpose(-1, -2) @ g))]
        if not self.constant:
            inner = g @ v.transpose(-1, -2)
            scores = weights * (inner - (inner * weights).sum(-1, keepdim=True)) * (scale / 2)
            sent.append((queries, RelevanceSignal(unbroadcast(scores @ k, q.shape))))
            sent.append((keys, RelevanceSignal(scores.transpose(-1, -2) @ q)))
        return [(source, part) for source, part in sent if source in self.receivers()]
