"""Normalisations over the activations of one sample: their spread is taken as constant.

Achtibat et al. 2024 (Prop. 3.4): dividing by the standard deviation keeps relevance, so only
the mean's subtraction is propagated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semlens.relevance.flow import Flow
from semlens.relevance.graph import Node, execute
from semlens.relevance.rules.base import Rule, Sent

aten = torch.ops.aten


class LayerNorm(Rule):
    """``y = w (x - mean) / sd + b`` over the last axes, with ``sd`` constant.

    Also RMS normalisation, which subtracts no mean.
    """

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node and ``1 / sd``."""
        node = self.node
        x: Tensor = values[node.arg(0)]
        axes = tuple(range(-len(node.arg(1)), 0))
        if node.target == aten.rms_norm.default:
            given = node.arg(3)
            eps = torch.finfo(x.dtype).eps if given is None else given
            scale = torch.rsqrt(x.square().mean(axes, keepdim=True) + eps)
        else:
            eps = node.arg(4, 1e-5)
            scale = torch.rsqrt(x.var(axes, unbiased=False, keepdim=True) + eps)
        return execute(node, values, torch.empty(0)), scale

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Pass on through scale and mean."""
        node = self.node
        weight = node.arg(2)
        g = flow.values * saved
        if weight is not None:
            g = g * weight
        if node.target != aten.rms_norm.default:
            g = g - g.mean(tuple(range(-len(node.arg(1)), 0)), keepdim=True)
        return [(node.arg(0), Flow(g))]


class GroupNorm(Rule):
    """``y = w (x - mean) / sd + b`` over groups of channels and all positions, ``sd`` constant."""

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node and ``1 / sd`` [U groups 1]."""
        x: Tensor = values[self.node.arg(0)]
        groups = self.node.arg(1)
        eps = self.node.arg(4, 1e-5)
        parts = x.unflatten(1, (groups, -1)).flatten(2)
        scale = torch.rsqrt(parts.var(2, unbiased=False, keepdim=True) + eps)
        return execute(self.node, values, torch.empty(0)), scale

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Pass on through scale and mean."""
        weight = self.node.arg(2)
        g = flow.values
        if weight is not None:
            g = g * weight.view(-1, *[1] * (g.ndim - 3))
        parts = g.unflatten(2, (self.node.arg(1), -1)).flatten(3) * saved
        parts = parts - parts.mean(-1, keepdim=True)
        return [(self.node.arg(0), Flow(parts.reshape(g.shape)))]
