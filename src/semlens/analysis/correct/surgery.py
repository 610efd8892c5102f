"""Weights without a channel: the columns that read it, or the rows that make it, set to zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semlens.analysis.correct.influence import ELEMENTWISE, ReadError, packet
from semlens.relevance.graph import Graph, Node
from semlens.relevance.simplify import BATCH_NORM, CONV

aten = torch.ops.aten

LINEAR = aten.linear.default
_POOLS = {aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d}


@dataclass(frozen=True)
class Edit:
    """One tensor of a state dict that was changed."""

    layer: str
    """The layer whose components were pruned."""
    tensor: str
    way: Literal["reader", "producer"]
    """Whether it reads the components, or makes them."""
    entries: int
    """Columns or rows that were set."""


class Weights:
    """A state dict to change, found from the tensors in a captured graph.

    Parameters
    ----------
    module
        What was captured, in full precision; it is not changed.
    """

    def __init__(self, module: nn.Module, graph: Graph) -> None:
        live = {k: v for k, v in module.state_dict().items() if v.numel() > 0}
        self.state = {name: value.detach().clone() for name, value in live.items()}
        self._names: dict[int, list[str]] = {}
        for name, value in live.items():
            self._names.setdefault(value.data_ptr(), []).append(name)
        values = [value for node in graph.nodes for value in node.args]
        self._uses = Counter(v.data_ptr() for v in values if isinstance(v, Tensor))
        self.edits: list[Edit] = []

    def own(self, value: Any) -> list[str]:
        """Return the names of a tensor that one operation alone reads; none if it has none."""
        if not isinstance(value, Tensor) or self._uses[value.data_ptr()] != 1:
            return []
        return self._names.get(value.data_ptr(), [])

    # -- what reads it ----------------------------------------------------------------------

    def cut_columns(self, node: Node, mark: Bool[Tensor, ...], value: Tensor, layer: str) -> bool:
        """Take marked entries of its input from a convolution or linear layer.

        Parameters
        ----------
        value
            The input with the channels pruned: where it is not zero, the bias takes it over.

        Returns
        -------
        bool
            False if the node is no such layer.

        Raises
        ------
        ReadError
            If it is one, but cannot do without exactly.
        """
        if node.target not in (*CONV, LINEAR):
            return False
        names = self.own(node.args[1])
        if not names:
            raise ReadError(node, "its weights are computed or shared")
        axis = 1 if node.target in CONV else -1
        channels, constants = _constant_channels(node, mark.expand(value.shape), value, axis)
        bias = self.own(node.arg(2)) if isinstance(node.arg(2), Tensor) else []
        added = self._without(names[0], channels, constants, node)
        for name in names:
            _clear(self.state[name], channels)
        self.edits += [Edit(layer, name, "reader", int(channels.sum())) for name in names]
        if bool((added != 0).any()):
            self._check_bias(node, bias)
            for name in bias:
                self.state[name] += added
            self.edits += [Edit(layer, name, "reader", len(added)) for name in bias]
        return True

    def _without(
        self, name: str, channels: Bool[Tensor, " c"], constants: Float[Tensor, " c"], node: Node
    ) -> Float[Tensor, " out"]:
        """Return what the channels, constant as they are, add to every output."""
        weight = self.state[name]
        if node.target not in CONV:
            return weight[:, channels] @ constants[channels]
        size = weight.shape[1]
        given = torch.where(channels, constants, 0.0).view(-1, size)  # group by group
        summed = weight.flatten(2).sum(2).view(len(given), -1, size)
        return torch.einsum("goi,gi->go", summed, given).flatten()

    def _check_bias(self, node: Node, bias: list[str]) -> None:
        padding = node.arg(4, 0)
        padded = padding == "same" if isinstance(padding, str) else any(_flat(padding))
        if node.target in CONV and padded:
            raise ReadError(node, "its padding would differ from the component's value")
        if not bias:
            raise ReadError(node, "it has no bias to take the component's value over")

    # -- what makes it ----------------------------------------------------------------------

    def silence(self, graph: Graph, node: Node, channels: Iterable[int], layer: str) -> None:
        """Make channels of a node zero by the weights that produce them.

        Raises
        ------
        ReadError
            If they cannot be made zero, or something else would change with them.
        """
        rows = sorted(channels)
        users = graph.users()
        open_, planned = [node], set[str]()
        while open_:
            at = open_.pop()
            if at is not node and sum(user.live for user in users[at]) > 1:
                raise ReadError(at, "something else reads it before it becomes the component")
            if self._rows_of(at):
                planned.update(self._rows_of(at))
            else:
                open_ += _sources(at)
        for name in sorted(planned):
            self.state[name][rows] = 0
            self.edits.append(Edit(layer, name, "producer", len(rows)))

    def _rows_of(self, node: Node) -> list[str]:
        """Return the tensors whose rows make a node's channels; none if it is not made so."""
        if node.target not in (*CONV, LINEAR, *BATCH_NORM):
            return []
        names = [self.own(value) for value in node.args[1:3] if isinstance(value, Tensor)]
        if not names or not all(names):
            raise ReadError(node, "its weights are computed or shared")
        return [name for tied in names for name in tied]


def _sources(node: Node) -> list[Node]:
    """Return what must be zero for a node's channels to be zero."""
    kind = packet(node)
    getitem = str(node.target) == "<built-in function getitem>"
    if kind in _POOLS or (getitem and node.args[0].target in BATCH_NORM):
        return [node.args[0]]
    if kind in ELEMENTWISE and _zero_stays(node):
        return [node.args[0]]
    live = node.live_inputs()
    if kind in (aten.add, aten.sub) and len(live) == len(node.args):
        return live
    if kind is aten.mul and len(live) == 1:
        return live
    raise ReadError(node, "it does not make zero from zeros")


def _zero_stays(node: Node) -> bool:
    zero = torch.zeros(1)
    return bool((node.target(zero, *node.args[1:], **node.kwargs) == 0).all())


def _constant_channels(
    node: Node, mark: Bool[Tensor, ...], value: Tensor, axis: int
) -> tuple[Bool[Tensor, " c"], Float[Tensor, " c"]]:
    """Return which channels are marked, at all positions, and the one value of each."""
    count = value.shape[axis]
    marks = mark.movedim(axis, -1).reshape(-1, count)
    values = value.movedim(axis, -1).reshape(-1, count)
    same = bool((marks == marks[:1]).all())
    spread = (values.amax(0) - values.amin(0))[marks[0]]
    if not same or bool((spread > 1e-5 * (1 + values.abs().amax(0)[marks[0]])).any()):
        raise ReadError(node, "it reads only some positions of the component")
    return marks[0], values.mean(0)


def _flat(padding: Any) -> list[int]:
    return torch.tensor(padding).flatten().tolist()


def _clear(weight: Tensor, channels: Bool[Tensor, " c"]) -> None:
    """Set the columns of some channels to zero, in the group of outputs that reads each."""
    size = weight.shape[1]
    groups = channels.view(-1, size)
    step = len(weight) // len(groups)
    for group, columns in enumerate(groups):
        weight[group * step : (group + 1) * step, columns] = 0
