"""What a channel's value reaches in a captured graph, up to the weights that read it.

A mark says which entries of a value depend on pruned channels. As long as an operation makes
marked entries from constants only (a pooling, a ReLU, a reshape), they would be constant if
the channels were; a convolution or linear layer that reads them can then do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils._pytree import tree_map_only

from semlens.relevance.graph import Graph, Node, execute
from semlens.relevance.simplify import BATCH_NORM

aten = torch.ops.aten

Mark = Bool[Tensor, "..."]

_ELEMENTWISE = """
    relu relu6 gelu silu hardswish hardsigmoid sigmoid tanh leaky_relu elu selu celu hardtanh mish
    softplus neg abs clamp clamp_min clone alias dropout contiguous detach lift_fresh_copy _to_copy
    to exp sqrt pow
""".split()
_COMBINES = "add sub rsub mul div maximum minimum".split()
_MOVES = """
    view reshape _unsafe_view permute transpose t cat stack slice select expand squeeze unsqueeze
    flatten unflatten pad constant_pad_nd roll flip unbind split split_with_sizes chunk movedim
    pixel_shuffle pixel_unshuffle channel_shuffle index_select repeat mean sum avg_pool2d
    adaptive_avg_pool2d max_pool2d amax upsample_bilinear2d upsample_nearest2d
""".split()


def _packets(names: Iterable[str]) -> set[Any]:
    return {getattr(aten, name) for name in names if hasattr(aten, name)}


ELEMENTWISE, COMBINES, MOVES = _packets(_ELEMENTWISE), _packets(_COMBINES), _packets(_MOVES)


def packet(node: Node) -> Any:
    """Return the operator of a node without its overload."""
    return getattr(node.target, "overloadpacket", node.target)


class ReadError(Exception):
    """Something other than a convolution or linear layer reads what is to be pruned."""

    def __init__(self, node: Node | None, why: str = "") -> None:
        self.operation = "the model's output" if node is None else describe(node)
        self.why = why
        super().__init__(self.operation)


def describe(node: Node) -> str:
    """Return an operation's name and the module in which it stands."""
    name = str(node.target).removeprefix("aten.").partition(".")[0].strip("_")
    scope = next((scope for scope in reversed(node.scopes) if scope), "")
    return f"'{name}' in '{scope}'" if scope else f"'{name}'"


@torch.no_grad()
def pruned_values(
    graph: Graph, inputs: Tensor, replace: Mapping[Node, Callable[[Tensor], Tensor]]
) -> dict[Node, Any]:
    """Compute every node, with the values of some replaced as soon as they are there."""
    values: dict[Node, Any] = {}
    for node in graph.nodes:
        value = execute(node, values, inputs)
        values[node] = replace[node](value) if node in replace else value
    return values


def follow(
    graph: Graph,
    start: Node,
    mark: Mark,
    values: Mapping[Node, Any],
    ends: Mapping[Node, Mark],
    read: Callable[[Node, Mark], bool],
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
    marks: dict[Node, Any] = {start: mark}
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


def _passed(node: Node, marks: Mapping[Node, Any], values: Mapping[Node, Any]) -> Any:
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
    if isinstance(touched, list):
        if not all(bool((t <= c).all()) for t, c in zip(touched, constant, strict=True)):
            raise ReadError(node)
    elif not bool((touched <= constant).all()):
        raise ReadError(node)
    return touched


def _only(node: Node, marks: Mapping[Node, Any]) -> Any:
    """Return the mark of the first argument, if it is the only one that has one."""
    first = node.args[0]
    if not isinstance(first, Node) or any(n in marks for n in node.inputs() if n is not first):
        raise ReadError(node)
    return marks[first]


def _combined(
    node: Node, marks: Mapping[Node, Any], values: Mapping[Node, Any]
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


def _moved(node: Node, marks: Mapping[Node, Any], values: Mapping[Node, Any]) -> tuple[Any, Any]:
    """Run the operation on the marks: what takes something from them, and from nothing else."""

    def run(marked: bool) -> Any:
        def stand_in(source: Node) -> Any:
            value = values[source]
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            mark = marks.get(source)
            part = torch.zeros(value.shape) if mark is None else mark.float()
            return part if marked else 1 - part

        args, kwargs = tree_map_only(Node, stand_in, (node.args, node.kwargs))
        return node.target(*args, **kwargs)

    some, other = run(True), run(False)
    if isinstance(some, tuple | list):
        return [part > 0 for part in some], [part == 0 for part in other]
    return some > 0, other == 0
