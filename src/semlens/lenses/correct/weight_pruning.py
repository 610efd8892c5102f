"""Pruning of channels by editing the weights that read them or produce them.

The values that depend on pruned channels are tracked through a captured graph, up to the weights
that read them. A mark is a boolean mask of the entries of a value that depend on pruned channels.
As long as an operation computes marked entries from marked entries only (a pooling, a ReLU, a
reshape), they are constant once the channels are. A convolution or linear layer that reads
constants can absorb them in its bias.
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
CONVOLUTIONS = (
    *CONV, aten.conv1d.default, aten.conv1d.padding, aten.conv3d.default, aten.conv3d.padding,
)  # fmt: skip

Mark = Bool[Tensor, "..."]


def _operators(names: str) -> set[Any]:
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


ELEMENTWISE = _operators("""
    relu relu6 gelu silu hardswish hardsigmoid sigmoid tanh leaky_relu elu selu celu hardtanh mish
    softplus neg abs clamp clamp_min clone alias dropout contiguous detach lift_fresh_copy _to_copy
    to exp sqrt pow
""")
COMBINES = _operators("add sub rsub mul div maximum minimum")
MOVES = _operators("""
    view reshape _unsafe_view permute transpose t cat stack slice select expand squeeze unsqueeze
    flatten unflatten pad constant_pad_nd roll flip unbind split split_with_sizes chunk movedim
    pixel_shuffle pixel_unshuffle channel_shuffle index_select repeat mean sum avg_pool2d
    adaptive_avg_pool2d max_pool2d amax upsample_bilinear2d upsample_nearest2d
""")


class BlockingOpError(Exception):
    """An operation that prevents exact pruning by editing weights."""

    def __init__(self, node: OpNode | None, reason: str = "") -> None:
        self.operation = "the model's output" if node is None else describe(node)
        self.reason = reason
        super().__init__(self.operation)


def describe(node: OpNode) -> str:
    """Return an operation's name and the module that it belongs to."""
    name, module = node.operator_name, node.module
    return f"'{name}' in '{module}'" if module else f"'{name}'"


@torch.no_grad()
def pruned_values(
    graph: CapturedGraph, inputs: Tensor, replace: Mapping[OpNode, Callable[[Tensor], Tensor]]
) -> dict[OpNode, Any]:
    """Compute all nodes, with the values of some nodes replaced."""
    values: dict[OpNode, Any] = {}
    for node in graph.nodes:
        value = execute(node, values, inputs)
        values[node] = replace[node](value) if node in replace else value
    return values


def propagate_marks(
    graph: CapturedGraph,
    start: OpNode,
    mark: Mark,
    values: Mapping[OpNode, Any],
    ends: Mapping[OpNode, Mark],
    read: Callable[[OpNode, Mark], bool],
) -> None:
    """Propagate the marked entries of node ``start`` through the graph.

    Parameters
    ----------
    values
        Values of all nodes, with the channels pruned.
    ends
        Marks of other pruned channels, which nothing passes through.
    read
        Called for each node that reads marked entries; returns whether its weights were edited
        so that it does not depend on them.

    Raises
    ------
    BlockingOpError
        If an operation mixes marked entries with others, or they reach the output.
    """
    marks: dict[OpNode, Any] = {start: mark}
    users = graph.users()
    for node in graph.nodes:
        sources = [source for source in node.inputs() if source in marks]
        if node.live and sources and not read(node, marks[sources[0]]):
            passed = _passed(node, marks, values)
            if node in ends:
                passed = passed & ~ends[node]
            if _any(passed):
                marks[node] = passed
        if node in marks and not any(user.live for user in users[node]):
            raise BlockingOpError(None)


def _any(mark: Any) -> bool:
    return any(_any(part) for part in mark) if isinstance(mark, tuple | list) else bool(mark.any())


def _passed(node: OpNode, marks: Mapping[OpNode, Any], values: Mapping[OpNode, Any]) -> Any:
    """Return the mark of a node's value, if it depends on marked entries only."""
    kind = node.operator
    if kind in ELEMENTWISE or node.target in BATCH_NORM:
        return _only(node, marks)
    if str(node.target) == "<built-in function getitem>":
        mark = _only(node, marks)
        return mark[node.args[1]] if isinstance(mark, tuple | list) else mark
    if kind in COMBINES:
        affected, constant = _combined(node, marks, values)
    elif kind in MOVES:
        affected, constant = _moved(node, marks, values)
    else:
        raise BlockingOpError(node)
    several = isinstance(affected, list)
    pairs = zip(affected, constant, strict=True) if several else [(affected, constant)]
    if not all(bool((a <= c).all()) for a, c in pairs):  # every affected entry is constant
        raise BlockingOpError(node)
    return affected


def _only(node: OpNode, marks: Mapping[OpNode, Any]) -> Any:
    """Return the mark of the first argument, if no other argument has a mark."""
    first = node.args[0]
    if not isinstance(first, OpNode) or any(n in marks for n in node.inputs() if n is not first):
        raise BlockingOpError(node)
    return marks[first]


def _combined(
    node: OpNode, marks: Mapping[OpNode, Any], values: Mapping[OpNode, Any]
) -> tuple[Tensor, Tensor]:
    """Return which entries depend on marked ones, and which on nothing else.

    A product with a marked zero is constant, whatever the other factor is.
    """
    shape = values[node].shape
    affected = torch.zeros(shape, dtype=torch.bool)
    only_marked, is_zero = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for source in node.live_inputs():
        mark = marks.get(source)
        if mark is None:
            only_marked = torch.zeros_like(only_marked)
            continue
        mark = mark.expand(shape)
        affected, only_marked = affected | mark, only_marked & mark
        is_zero = is_zero | (mark & (values[source].expand(shape) == 0))
    return affected, only_marked | is_zero if node.operator is aten.mul else only_marked


def _moved(
    node: OpNode, marks: Mapping[OpNode, Any], values: Mapping[OpNode, Any]
) -> tuple[Any, Any]:
    """Run the operation on the marks, and on their complement.

    The operations in ``MOVES`` move, sum or maximise values. So an entry above 0 depends on a
    marked one, and an entry that is 0 for the complement depends on nothing else.
    """

    def run(marked: bool) -> Any:
        def stand_in(source: OpNode) -> Any:
            value = values[source]
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            mark = marks.get(source, torch.zeros(value.shape)).float()
            return mark if marked else 1 - mark

        args, kwargs = tree_map_only(OpNode, stand_in, (node.args, node.kwargs))
        return node.target(*args, **kwargs)

    marked_part, unmarked_part = run(True), run(False)
    if isinstance(marked_part, tuple | list):
        return [part > 0 for part in marked_part], [part == 0 for part in unmarked_part]
    return marked_part > 0, unmarked_part == 0


LINEAR = aten.linear.default
_POOLS = {aten.max_pool2d, aten.avg_pool2d, aten.adaptive_avg_pool2d}


@dataclass(frozen=True)
class TensorEdit:
    """An edit of one tensor of a state dict.

    Parameters
    ----------
    layer
        The layer whose components were pruned.
    tensor
        Name of the tensor in the state dict.
    way
        Whether the tensor reads the components or produces them.
    entries
        Number of edited columns or rows.
    """

    layer: str
    tensor: str
    way: Literal["reader", "producer"]
    entries: int


class EditableWeights:
    """An editable copy of a state dict, whose tensors are found from a captured graph.

    Parameters
    ----------
    module
        The captured module, in full precision; it is not changed.
    """

    def __init__(self, module: nn.Module, graph: CapturedGraph) -> None:
        tensors = {k: v for k, v in module.state_dict().items() if v.numel() > 0}
        self.state = {name: value.detach().clone() for name, value in tensors.items()}
        self._names: dict[int, list[str]] = {}
        for name, value in tensors.items():
            self._names.setdefault(value.data_ptr(), []).append(name)
        values = [value for node in graph.nodes for value in node.args]
        self._uses = Counter(v.data_ptr() for v in values if isinstance(v, Tensor))
        self.edits: list[TensorEdit] = []

    def _names_of(self, value: Any) -> list[str]:
        """Return the names of a tensor that only one operation uses; otherwise an empty list."""
        if not isinstance(value, Tensor) or self._uses[value.data_ptr()] != 1:
            return []
        return self._names.get(value.data_ptr(), [])

    # -- readers ----------------------------------------------------------------------------

    def cut_columns(self, node: OpNode, mark: Bool[Tensor, ...], value: Tensor, layer: str) -> bool:
        """Zero the columns of a convolution or linear layer that read marked entries.

        Parameters
        ----------
        value
            The input with the channels pruned; if it is not zero, the bias absorbs it.

        Returns
        -------
        bool
            False if the node is neither a convolution nor a linear layer.

        Raises
        ------
        BlockingOpError
            If the columns cannot be removed exactly.
        """
        if node.target not in (*CONVOLUTIONS, LINEAR):
            return False
        names = self._names_of(node.args[1])
        if not names:
            raise BlockingOpError(node, "its weights are computed or shared")
        axis = 1 if node.target in CONVOLUTIONS else -1
        channels, constants = _constant_channels(node, mark.expand(value.shape), value, axis)
        bias = self._names_of(node.arg(2))
        shift = self._output_shift(names[0], channels, constants, node)
        for name in names:
            _clear(self.state[name], channels)
        self.edits += [TensorEdit(layer, name, "reader", int(channels.sum())) for name in names]
        if bool((shift != 0).any()):
            padding = node.arg(4, 0)
            padded = padding == "same" if isinstance(padding, str) else torch.tensor(padding).any()
            if node.target in CONVOLUTIONS and padded:
                raise BlockingOpError(node, "its padding would differ from the component's value")
            if not bias:
                raise BlockingOpError(
                    node, "it has no bias that could absorb the component's value"
                )
            for name in bias:
                self.state[name] += shift
            self.edits += [TensorEdit(layer, name, "reader", len(shift)) for name in bias]
        return True

    def _output_shift(
        self, name: str, channels: Bool[Tensor, " c"], constants: Float[Tensor, " c"], node: OpNode
    ) -> Float[Tensor, " out"]:
        """Return what constant channels add to every output."""
        weight = self.state[name]
        if node.target not in CONVOLUTIONS:
            return weight[:, channels] @ constants[channels]
        size = weight.shape[1]
        by_group = torch.where(channels, constants, 0.0).view(-1, size)  # [groups, channels]
        kernel_sums = weight.flatten(2).sum(2).view(len(by_group), -1, size)
        return torch.einsum("goi,gi->go", kernel_sums, by_group).flatten()

    # -- producers --------------------------------------------------------------------------

    def zero_producers(
        self, graph: CapturedGraph, node: OpNode, channels: Iterable[int], layer: str
    ) -> None:
        """Zero the weights that produce channels of a node, so that the channels are zero.

        Raises
        ------
        BlockingOpError
            If the channels cannot be made zero, or other values would change with them.
        """
        rows = sorted(channels)
        users = graph.users()
        open_nodes, tensor_names = [node], set[str]()
        while open_nodes:
            current = open_nodes.pop()
            if current is not node and sum(user.live for user in users[current]) > 1:
                raise BlockingOpError(
                    current, "another operation reads it before it becomes the component"
                )
            if self._rows_of(current):
                tensor_names.update(self._rows_of(current))
            else:
                open_nodes += _sources(current)
        for name in sorted(tensor_names):
            self.state[name][rows] = 0
            self.edits.append(TensorEdit(layer, name, "producer", len(rows)))

    def _rows_of(self, node: OpNode) -> list[str]:
        """Return the tensors whose rows produce a node's channels, if it has weights."""
        if node.target not in (*CONVOLUTIONS, LINEAR, *BATCH_NORM):
            return []
        names = [self._names_of(value) for value in node.args[1:3] if isinstance(value, Tensor)]
        if not names or not all(names):
            raise BlockingOpError(node, "its weights are computed or shared")
        return [name for tied in names for name in tied]


def _sources(node: OpNode) -> list[OpNode]:
    """Return the inputs that must be zero for a node's channels to be zero."""
    kind = node.operator
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
    raise BlockingOpError(node, "it does not map zeros to zero")


def _constant_channels(
    node: OpNode, mark: Bool[Tensor, ...], value: Tensor, axis: int
) -> tuple[Bool[Tensor, " c"], Float[Tensor, " c"]]:
    """Return which channels are marked at all positions, and the constant value of each."""
    count = value.shape[axis]
    flat_mark = mark.movedim(axis, -1).reshape(-1, count)
    flat = value.movedim(axis, -1).reshape(-1, count)
    uniform = bool((flat_mark == flat_mark[:1]).all())
    spread = (flat.amax(0) - flat.amin(0))[flat_mark[0]]
    if not uniform or bool((spread > 1e-5 * (1 + flat.abs().amax(0)[flat_mark[0]])).any()):
        raise BlockingOpError(node, "it reads only some positions of the component")
    return flat_mark[0], flat.mean(0)


def _clear(weight: Tensor, channels: Bool[Tensor, " c"]) -> None:
    """Set the columns of some channels to zero, each in the output group that reads it."""
    groups = channels.view(-1, weight.shape[1])
    weight[groups.repeat_interleave(len(weight) // len(groups), 0)] = 0
