"""Weights without a channel: the columns that read it, or the rows that make it, set to zero.

What a channel's value reaches is followed through a captured graph, up to the weights that read
it. A mark says which entries of a value depend on pruned channels. As long as an operation makes
marked entries from constants only (a pooling, a ReLU, a reshape), they would be constant if
the channels were; a convolution or linear layer that reads them can then do without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from semlens.relevance.canonicalize import BATCH_NORM, CONV
from semlens.relevance.captured_graph import CapturedGraph, OpNode, execute

aten = torch.ops.aten

Mark = Bool[Tensor, "..."]


def _packets(names: str) -> set[Any]:
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


ELEMENTWISE = _packets("""
    relu relu6 gelu silu hardswish hardsigmoid sigmoid tanh leaky_relu elu selu celu hardtanh mish
    softplus neg abs clamp clamp_min clone alias dropout contiguous detach lift_fresh_copy _to_copy
    to exp sqrt pow
""")
COMBINES = _packets("add sub rsub mul div maximum minimum")
MOVES = _packets("""
    view reshape _unsafe_view permute transpose t cat stack slice select expand squeeze unsqueeze
    flatten unflatten pad constant_pad_nd roll flip unbind split split_with_sizes chunk movedim
    pixel_shuffle pixel_unshuffle channel_shuffle index_select repeat mean sum avg_pool2d
    adaptive_avg_pool2d max_pool2d amax upsample_bilinear2d upsample_nearest2d
""")


def packet(node: OpNode) -> Any:
    """Return the operator of a node without its overload."""
    return getattr(node.target, "overloadpacket", node.target)


class ReadError(Exception):
    """Something other than a convolution or linear layer reads what is to be pruned."""

    def __init__(self, node: OpNode | None, why: str = "") -> None:
        self.operation = "the model's output" if node is None else describe(node)
        self.why = why
        super().__init__(self.operation)


def describe(node: OpNode) -> str:
    """Return an operation's name and the module in which it stands."""
    name = str(node.target).removeprefix("aten.").partition(".")[0].strip("_")
    scope = next((scope for scope in reversed(node.scopes) if scope), "")
    return f"'{name}' in '{scope}'" if scope else f"'{name}'"


@torch.no_grad()
def pruned_values(
    graph: CapturedGraph, inputs: Tensor, replace: Mapping[OpNode, Callable[[Tensor], Tensor]]
) -> dict[OpNode, Any]:
    """Compute every node, with the values of some replaced as soon as they are there."""
    values: dict[OpNode, Any] = {}
    for node in graph.nodes:
        value = execute(node, values, inputs)
        values[node] = replace[node](value) if node in replace else value
    return values


def follow(
    graph: CapturedGraph,
    start: OpNode,
    mark: Mark,
    values: Mapping[OpNode, Any],
    ends: Mapping[OpNode, Mark],
    read: Callable[[OpNode, Mark], bool],
) -> None:
    """Follow marked entries of ``start`` through the graph.

    Parameters
    ----------
    values
        Of all nodes, with the channels pruned.
    ends
        Entries of nodes that are pruned themselves: nothing comes through them.
    read
        Called where a node reads marked entries; it says whether it has dealt with that.

    Raises
    ------
    ReadError
        If an operation mixes marked entries with others, or they reach the output.
    """
    marks: dict[OpNode, Any] = {start: mark}
    users = graph.users()
    for node in graph.nodes:
        sources = [source for source in node.inputs() if source in marks]
        if node.live and sources and not read(node, marks[sources[0]]):
            found = _passed(node, marks, values)
            if node in ends:
                found = found & ~ends[node]
            if _any(found):
                marks[node] = found
        if node in marks and not any(user.live for user in users[node]):
            raise ReadError(None)


def _any(mark: Any) -> bool:
    return any(_any(part) for part in mark) if isinstance(mark, tuple | list) else bool(mark.any())


def _passed(node: OpNode, marks: Mapping[OpNode, Any], values: Mapping[OpNode, Any]) -> Any:
    """Return which entries of a node's value are marked, if they are made of marked ones only."""
    kind = packet(node)
    if kind in ELEMENTWISE or node.target in BATCH_NORM:
        return _only(node, marks)
    if str(node.target) == "<built-in function getitem>":
        whole = _only(node, marks)
        return whole[node.args[1]] if isinstance(whole, tuple | list) else whole
    if kind in COMBINES:
        touched, constant = _combined(node, marks, values)
    elif kind in MOVES:
        touched, constant = _moved(node, marks, values)
    else:
        raise ReadError(node)
    several = isinstance(touched, list)
    pairs = zip(touched, constant, strict=True) if several else [(touched, constant)]
    if not all(bool((t <= c).all()) for t, c in pairs):
        raise ReadError(node)
    return touched


def _only(node: OpNode, marks: Mapping[OpNode, Any]) -> Any:
    """Return the mark of the first argument, if it is the only one that has one."""
    first = node.args[0]
    if not isinstance(first, OpNode) or any(n in marks for n in node.inputs() if n is not first):
        raise ReadError(node)
    return marks[first]


def _combined(
    node: OpNode, marks: Mapping[OpNode, Any], values: Mapping[OpNode, Any]
) -> tuple[Tensor, Tensor]:
    shape = values[node].shape
    touched = torch.zeros(shape, dtype=torch.bool)
    constant, zero = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for source in node.live_inputs():
        mark = marks.get(source)
        if mark is None:
            constant = torch.zeros_like(constant)
            continue
        mark = mark.expand(shape)
        touched, constant = touched | mark, constant & mark
        zero = zero | (mark & (values[source].expand(shape) == 0))
    return touched, constant | zero if packet(node) is aten.mul else constant


def _moved(
    node: OpNode, marks: Mapping[OpNode, Any], values: Mapping[OpNode, Any]
) -> tuple[Any, Any]:
    """Run the operation on the marks: what takes something from them, and from nothing else."""

    def run(marked: bool) -> Any:
        def stand_in(source: OpNode) -> Any:
            value = values[source]
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            part = marks.get(source, torch.zeros(value.shape)).float()
            return part if marked else 1 - part

        args, kwargs = tree_map_only(OpNode, stand_in, (node.args, node.kwargs))
        return node.target(*args, **kwargs)

    some, other = run(True), run(False)
    if isinstance(some, tuple | list):
        return [part > 0 for part in some], [part == 0 for part in other]
    return some > 0, other == 0


LINEAR = aten.linear.default
_POOLS = {aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d}


@dataclass(frozen=True)
class TensorEdit:
    """One tensor of a state dict that was changed."""

    layer: str
    """The layer whose components were pruned."""
    tensor: str
    way: Literal["reader", "producer"]
    """Whether it reads the components, or makes them."""
    entries: int
    """Columns or rows that were set."""


class EditableWeights:
    """A state dict to change, found from the tensors in a captured graph.

    Parameters
    ----------
    module
        What was captured, in full precision; it is not changed.
    """

    def __init__(self, module: nn.Module, graph: CapturedGraph) -> None:
        live = {k: v for k, v in module.state_dict().items() if v.numel() > 0}
        self.state = {name: value.detach().clone() for name, value in live.items()}
        self._names: dict[int, list[str]] = {}
        for name, value in live.items():
            self._names.setdefault(value.data_ptr(), []).append(name)
        values = [value for node in graph.nodes for value in node.args]
        self._uses = Counter(v.data_ptr() for v in values if isinstance(v, Tensor))
        self.edits: list[TensorEdit] = []

    def own(self, value: Any) -> list[str]:
        """Return the names of a tensor that one operation alone reads; none if it has none."""
        if not isinstance(value, Tensor) or self._uses[value.data_ptr()] != 1:
            return []
        return self._names.get(value.data_ptr(), [])

    # -- what reads it ----------------------------------------------------------------------

    def cut_columns(self, node: OpNode, mark: Bool[Tensor, ...], value: Tensor, layer: str) -> bool:
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
        self.edits += [TensorEdit(layer, name, "reader", int(channels.sum())) for name in names]
        if bool((added != 0).any()):
            padding = node.arg(4, 0)
            padded = padding == "same" if isinstance(padding, str) else torch.tensor(padding).any()
            if node.target in CONV and padded:
                raise ReadError(node, "its padding would differ from the component's value")
            if not bias:
                raise ReadError(node, "it has no bias to take the component's value over")
            for name in bias:
                self.state[name] += added
            self.edits += [TensorEdit(layer, name, "reader", len(added)) for name in bias]
        return True

    def _without(
        self, name: str, channels: Bool[Tensor, " c"], constants: Float[Tensor, " c"], node: OpNode
    ) -> Float[Tensor, " out"]:
        """Return what the channels, constant as they are, add to every output."""
        weight = self.state[name]
        if node.target not in CONV:
            return weight[:, channels] @ constants[channels]
        size = weight.shape[1]
        given = torch.where(channels, constants, 0.0).view(-1, size)  # group by group
        summed = weight.flatten(2).sum(2).view(len(given), -1, size)
        return torch.einsum("goi,gi->go", summed, given).flatten()

    # -- what makes it ----------------------------------------------------------------------

    def silence(
        self, graph: CapturedGraph, node: OpNode, channels: Iterable[int], layer: str
    ) -> None:
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
            self.edits.append(TensorEdit(layer, name, "producer", len(rows)))

    def _rows_of(self, node: OpNode) -> list[str]:
        """Return the tensors whose rows make a node's channels; none if it is not made so."""
        if node.target not in (*CONV, LINEAR, *BATCH_NORM):
            return []
        names = [self.own(value) for value in node.args[1:3] if isinstance(value, Tensor)]
        if not names or not all(names):
            raise ReadError(node, "its weights are computed or shared")
        return [name for tied in names for name in tied]


def _sources(node: OpNode) -> list[OpNode]:
    """Return what must be zero for a node's channels to be zero."""
    kind = packet(node)
    getitem = str(node.target) == "<built-in function getitem>"
    normed = getitem and node.args[0].target in BATCH_NORM
    stays_zero = kind in ELEMENTWISE and bool(
        (node.target(torch.zeros(1), *node.args[1:], **node.kwargs) == 0).all()
    )
    if kind in _POOLS or normed or stays_zero:
        return [node.args[0]]
    live = node.live_inputs()
    summed = kind in (aten.add, aten.sub) and len(live) == len(node.args)
    if summed or (kind is aten.mul and len(live) == 1):
        return live
    raise ReadError(node, "it does not make zero from zeros")


def _constant_channels(
    node: OpNode, mark: Bool[Tensor, ...], value: Tensor, axis: int
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


def _clear(weight: Tensor, channels: Bool[Tensor, " c"]) -> None:
    """Set the columns of some channels to zero, in the group of outputs that reads each."""
    groups = channels.view(-1, weight.shape[1])
    weight[groups.repeat_interleave(len(weight) // len(groups), 0)] = 0
