"""What a rule is.

Relevance ``R`` is carried as ``G = R / activation``. A rule that is linear in its input then
is a plain gradient, a shortcut needs no canonizer, and nothing is divided by small
activations on the way (Achtibat et al. 2024, App. B, do the same for the identity rule).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from semlens.relevance.captured_graph import OpNode, execute
from semlens.relevance.relevance_signal import RelevanceSignal

Sent = list[tuple[OpNode, RelevanceSignal]]
"""Which nodes receive what."""


class Rule(ABC):
    """How one node passes on what reaches it.

    Parameters
    ----------
    node
        The operation that the rule belongs to.
    """

    windowed: ClassVar[bool] = False
    """Whether :meth:`backward` takes flows that cover a window only."""
    final: ClassVar[bool] = False
    """Whether what is sent is relevance over pixels, to be added to the heatmap."""

    def __init__(self, node: OpNode) -> None:
        self.node = node

    def receivers(self) -> list[OpNode]:
        """Return the nodes that relevance is passed on to."""
        return self.node.live_inputs()

    def forward(self, values: dict[OpNode, Any]) -> tuple[Any, Any]:
        """Compute the node for U images, and what :meth:`backward` needs."""
        return execute(self.node, values, torch.empty(0)), None

    @abstractmethod
    def backward(self, saved: Any, flow: RelevanceSignal) -> Sent:
        """Pass on a flow; ``saved`` comes from :meth:`forward`."""


def stabilised(value: Tensor, epsilon: float) -> Tensor:
    """Move values away from zero by ``epsilon``, zero itself upwards."""
    return value + torch.where(value >= 0, epsilon, -epsilon)


def unbroadcast(g: Tensor, shape: torch.Size) -> Tensor:
    """Sum a flow [n U ...] to [n *shape], where a value of ``shape`` was broadcast."""
    missing = g.ndim - 1 - len(shape)
    if missing > 0:
        g = g.sum(tuple(range(1, 1 + missing)))
    pairs = zip(g.shape[1:], shape, strict=True)
    axes = tuple(place + 1 for place, (got, want) in enumerate(pairs) if want == 1 and got != 1)
    return g.sum(axes, keepdim=True) if axes else g
