"""A model's forward pass as a list of operations, captured without touching the model.

``torch.export`` traces the pass into functional operators: in-place operations, shared
modules and shortcuts written in Python are all plain nodes afterwards, so that no rule needs
to know how the model was written.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._export.verifier import SpecViolationError
from torch.utils._pytree import tree_leaves, tree_map_only

from semlens.errors import RelevanceError
from semlens.models.hooks import FAILURES, evaluating

INPUT = "input"
SHAPE_ONLY = (
    "sym_size", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like",
    "full_like", "empty_like", "aten.fill.", "aten.zero.",
)  # fmt: skip
"""Operators that read the shape of what they are given, not its values."""


@dataclass(eq=False)
class OpNode:
    """One operation; its arguments are nodes, tensors and plain values.

    Parameters
    ----------
    name
        Unique in its graph.
    target
        The operator; for the input, the text ``input``.
    scopes
        Names of the modules in whose forward it stands, outermost first.
    live
        Whether its value depends on the input's values (and so can carry relevance).
    relu
        Whether a ReLU follows at once and belongs to the node.
    axes
        Number of axes of its value, where the capture knows it.
    """

    name: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    scopes: tuple[str, ...] = ()
    live: bool = False
    relu: bool = False
    axes: int = 4

    def __repr__(self) -> str:
        """Return the name and the operator."""
        return f"<{self.name}: {self.target}>"

    def arg(self, place: int, otherwise: Any = None) -> Any:
        """Return a positional argument, or what holds when it is left out."""
        return self.args[place] if len(self.args) > place else otherwise

    def inputs(self) -> list[OpNode]:
        """Return the nodes among the arguments, nested ones too, in order."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, OpNode)]

    def live_inputs(self) -> list[OpNode]:
        """Return the arguments that depend on the input's values."""
        return [node for node in self.inputs() if node.live]


@dataclass
class CapturedGraph:
    """Nodes in the order of execution; the first is the input."""

    nodes: list[OpNode]

    @property
    def input(self) -> OpNode:
        """Return the node that stands for the images."""
        return self.nodes[0]

    def users(self) -> dict[OpNode, list[OpNode]]:
        """Return the nodes that read each node."""
        found: dict[OpNode, list[OpNode]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs():
                found[source].append(node)
        return found

    def ends(self) -> list[OpNode]:
        """Return the nodes that nothing reads: to compute them is to compute all."""
        return [node for node, users in self.users().items() if not users]

    def needed(self, targets: Collection[OpNode]) -> list[OpNode]:
        """Return what must run to compute the targets, in order."""
        wanted, open_ = set[OpNode](), list(targets)
        while open_:
            node = open_.pop()
            if node not in wanted:
                wanted.add(node)
                open_.extend(node.inputs())
        return [node for node in self.nodes if node in wanted]

    def mark_live(self) -> None:
        """Find out which nodes depend on the values of the input."""
        for node in self.nodes:
            reads_values = not any(name in str(node.target) for name in SHAPE_ONLY)
            node.live = node is self.input or (reads_values and bool(node.live_inputs()))

    def run(
        self,
        inputs: Tensor,
        targets: Collection[OpNode],
        seen: Callable[[OpNode, Any], None] = lambda *_: None,
        *,
        keep: Collection[OpNode] = (),
        compute: Callable[[OpNode, dict[OpNode, Any], Tensor], Any] | None = None,
    ) -> dict[OpNode, Any]:
        """Compute the targets as the model would, or by ``compute``.

        ``seen`` is shown every value on the way. Those of the targets are returned, and of the
        nodes of ``keep`` that were computed.
        """
        order, kept = self.needed(targets), {*targets, *keep}
        last = {source: node for node in order for source in node.inputs()}
        values: dict[OpNode, Any] = {}
        for node in order:
            values[node] = (compute or execute)(node, values, inputs)
            seen(node, values[node])
            for source in node.inputs():
                if last[source] is node and source not in kept:
                    values.pop(source, None)
        return {node: value for node, value in values.items() if node in kept}


def execute(node: OpNode, values: dict[OpNode, Any], inputs: Tensor) -> Any:
    """Compute one node from the values of those that it reads."""
    if node.target == INPUT:
        return inputs
    args, kwargs = tree_map_only(OpNode, values.__getitem__, (node.args, node.kwargs))
    value = node.target(*args, **kwargs)
    return value.relu() if node.relu else value


def capture(module: nn.Module, example: Tensor) -> CapturedGraph:
    """Trace a module's forward pass; its batch size stays free.

    Parameters
    ----------
    module
        Run in evaluation mode, and left as it was. Half precision is captured as a float32
        copy: relevance overflows in float16.
    example
        float[b 3 h w], a batch as the model takes it.

    Raises
    ------
    RelevanceError
        If the pass cannot be traced; it says where.
    """
    module = in_full_precision(module)
    pair = prepared(example[:1], module).repeat(2, 1, 1, 1)
    batch = torch.export.Dim("batch", min=1, max=65536)
    with refusing(
        f"The forward pass of {type(module).__name__} cannot be captured",
        "Expected a pass without branches on the values of tensors, or quantised layers.",
    ), evaluating(module), torch.no_grad(), _quiet():  # fmt: skip
        try:
            program = torch.export.export(
                module, (pair,), dynamic_shapes=({0: batch},), strict=False
            )
        except _UNTRACEABLE:  # a model that fixes its batch size is traced at one image
            program = torch.export.export(module, (pair[:1],), strict=False)
        traced = program.run_decompositions({}).module()
    return _from_fx(traced.graph, traced)


_UNTRACEABLE = (*FAILURES, SpecViolationError)
REMEDY = "Use rules 'gradient' (gradient times input), or crop='activation'."
"""What to do about a model that has no exact relevance."""


@contextmanager
def refusing(value: str, expected: str) -> Iterator[None]:
    """Turn what breaks a capture, or a forward pass, into an error; the reason is added to it.

    Nothing else is turned into one: a time-out's signal, or lack of memory, is not the model's.

    Raises
    ------
    RelevanceError
        From ``value``, in brackets the reason, and ``expected``.
    """
    try:
        yield
    except _UNTRACEABLE as error:
        text = str(error).strip()
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text:
            raise
        reason = f"{type(error).__name__}: {text}".splitlines()[0]
        raise RelevanceError(f"{value} ({reason}).", expected, REMEDY) from error


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for itself and float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return an operator's argument that is one number for both axes, or one for each."""
    numbers = [value] if isinstance(value, int) else list(value)
    return (numbers[0], numbers[-1])


def prepared(inputs: Tensor, module: nn.Module) -> Tensor:
    """Put images where the module is, in its precision."""
    first = next(module.parameters(), inputs)
    return inputs.to(first.device, full_precision(first.dtype))


def in_full_precision(module: nn.Module) -> nn.Module:
    """Return the module, or a float32 copy when it computes in half precision."""
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if kinds <= {torch.float32, torch.float64}:
        return module
    return copy.deepcopy(module).float()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's warnings and logs from the user: what fails is said by our error."""
    with warnings.catch_warnings(action="ignore"):
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _from_fx(graph: fx.Graph, owner: nn.Module) -> CapturedGraph:
    known: dict[fx.Node, Any] = {}
    nodes: list[OpNode] = []
    for item in graph.nodes:
        if item.op == "placeholder":
            known[item] = OpNode(item.name, INPUT)
        elif item.op == "get_attr":
            value: Any = attrgetter(str(item.target))(owner)
            known[item] = value.detach() if isinstance(value, Tensor) else value
            continue
        elif item.op == "call_function" and not _is_check(item):
            stack = item.meta.get("nn_module_stack") or {}
            given = (item.args, dict(item.kwargs))
            args, kwargs = tree_map_only(fx.Node, known.__getitem__, given)
            scopes = tuple(str(entry[0]) for entry in stack.values())
            known[item] = OpNode(item.name, item.target, args, kwargs, scopes)
            known[item].axes = getattr(item.meta.get("val"), "ndim", 4)
        else:
            continue
        nodes.append(known[item])
    nodes.sort(key=lambda node: node.target != INPUT)  # stable: the input first
    found = CapturedGraph(nodes)
    found.mark_live()
    return found


def _is_check(item: fx.Node) -> bool:
    """Whether the node only asserts something."""
    return "assert" in str(item.target) or "guard" in item.name
