"""Base class of relevance rules.

Relevance ``R`` is carried as ``G = R / activation``. A rule that is linear in its input is
then a plain gradient, a shortcut needs no canonizer, and nothing is divided by small
activations on the way (Achtibat et al. 2024, App. B, do the same for the identity rule).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

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

    windowed: ClassVar[bool] = False
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
