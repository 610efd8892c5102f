"""Maximum pooling: winner takes all, in a window or over the whole map."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from semlens.relevance.flow import Flow, windows
from semlens.relevance.graph import Node, pair
from semlens.relevance.rules.affine import Flat
from semlens.relevance.rules.base import Rule, Sent

aten = torch.ops.aten


class MaxPool(Rule):
    """Each output sends everything to the input that was the largest.

    The winner is kept as its number within the kernel, one byte per output.
    """

    windowed = True

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.source: Node = node.arg(0)
        self.kernel = pair(node.arg(1))
        self.stride = pair(node.arg(2) or node.arg(1))
        self.padding = pair(node.arg(3, 0))

    @staticmethod
    def handles(node: Node) -> bool:
        """Whether the kernel is a plain one: no dilation, no partial kernels, 255 at most."""
        size = pair(node.arg(1))
        plain = pair(node.arg(4, 1)) == (1, 1) and not node.arg(5)
        return plain and size[0] * size[1] <= 255

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node and who won."""
        x: Tensor = values[self.source]
        y, index = functional.max_pool2d(
            x, self.kernel, self.stride, self.padding, return_indices=True
        )
        width = x.shape[-1]
        rows = torch.arange(y.shape[-2], device=x.device) * self.stride[0] - self.padding[0]
        columns = torch.arange(y.shape[-1], device=x.device) * self.stride[1] - self.padding[1]
        down = torch.div(index, width, rounding_mode="floor") - rows[:, None]
        right = index % width - columns
        return y, ((down * self.kernel[1] + right).to(torch.uint8), x.shape)

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Send each value to its winner's place."""
        winner, shape = saved
        if flow.corner is not None:
            winner = windows(winner, flow.corner, flow.window)
        g = flow.values
        (high, wide), (down, right) = flow.window, self.stride
        out = g.new_zeros(*g.shape[:3], *self.covered(flow))
        for place in range(self.kernel[0] * self.kernel[1]):
            row, column = divmod(place, self.kernel[1])
            to = out[
                ..., row : row + (high - 1) * down + 1 : down,
                column : column + (wide - 1) * right + 1 : right,
            ]  # fmt: skip
            to += g * (winner == place)
        return [(self.source, self.placed(out, flow, shape))]

    def covered(self, flow: Flow) -> tuple[int, int]:
        """Return how many of the input's rows and columns a flow's window reads."""
        (high, wide), (down, right) = flow.window, self.stride
        return (high - 1) * down + self.kernel[0], (wide - 1) * right + self.kernel[1]

    def placed(self, out: Tensor, flow: Flow, shape: torch.Size) -> Flow:
        """Return values over what a flow's window reads as a flow over an input of ``shape``."""
        padding = torch.tensor(self.padding, device=out.device)
        if flow.corner is not None:
            return Flow(out, flow.corner * torch.tensor(self.stride, device=out.device) - padding)
        whole = Flow(out, padding.neg().expand(*out.shape[:2], 2))
        return whole.whole((shape[-2], shape[-1]))


class PooledFlat(MaxPool):
    """Maximum pooling right behind a flat layer, in one step.

    The flat rule asks only for each position's relevance, so channels are summed before they
    are sent to the winners: the largest maps of a network are never made per start.

    Parameters
    ----------
    flat
        The rule of the layer whose outputs are pooled.
    """

    final: ClassVar[bool] = True

    def __init__(self, node: Node, flat: Flat) -> None:
        super().__init__(node)
        self.flat = flat

    def forward(self, values: dict[Node, Any]) -> tuple[Any, Any]:
        """Compute the node; keep its value and the images' size too."""
        y, (winner, shape) = super().forward(values)
        return y, (y, winner, shape, self.flat.size(values))

    def backward(self, saved: Any, flow: Flow) -> Sent:
        """Sum relevance over channels at the winners' places, and spread it."""
        y, winner, shape, pixels = saved
        relevance = flow.times(y).values
        if flow.corner is not None:
            winner = windows(winner, flow.corner, flow.window)
        (high, wide), (down, right) = flow.window, self.stride
        size = self.covered(flow)
        device = winner.device
        rows = torch.arange(high, device=device)[:, None] * down
        columns = torch.arange(wide, device=device) * right
        number = winner.clamp(max=self.kernel[0] * self.kernel[1] - 1).long()
        place = (rows + number // self.kernel[1]) * size[1] + columns + number % self.kernel[1]
        # channels last in memory, so that both are read in order
        source = relevance.movedim(2, -1).flatten(2)
        index = place.movedim(-3, -1).flatten(-3).expand(source.shape)
        out = source.new_zeros(*source.shape[:2], size[0] * size[1])
        out = out.scatter_add_(2, index, source).unflatten(2, (1, *size))
        return self.flat.spread(self.placed(out, flow, shape), pixels)
