"""A model's forward pass captured as a graph of operations, without changing the model.

``torch.export`` traces the pass into functional operators: in-place operations, shared
modules and shortcuts written in Python all become plain nodes, so that no rule depends on how
the model was written.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._export.verifier import SpecViolationError
from torch.utils._pytree import tree_leaves, tree_map_only

from semlens.dictionaries.operators import OPERATOR as AS_CONSTANT
from semlens.errors import RelevanceError
from semlens.models.hooks import FAILURES, NamedLayers, evaluating, out_of_memory

INPUT = "input"
SHAPE_ONLY = (
    "sym_size", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like",
    "full_like", "empty_like", "aten.fill.", "aten.zero.", AS_CONSTANT,
)  # fmt: skip
"""Operators that read the shape of their argument, not its values, or pass no relevance."""


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
        Names of the modules whose forward pass contains it, outermost first.
    live
        Whether its value depends on the input's values (and so can carry relevance).
    relu
        Whether a ReLU follows immediately and is part of the node.
    shape
        Shape of its value as captured; -1 stands for a size that depends on the batch's. Empty
        for several values, and for nodes that a rewriting adds.
    counts
        Whether its value is integer or boolean: an index, a mask, which carries no relevance.
    """

    name: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    scopes: tuple[str, ...] = ()
    live: bool = False
    relu: bool = False
    shape: tuple[int, ...] = ()
    counts: bool = False

    def __repr__(self) -> str:
        """Return the name and the operator."""
        return f"<{self.name}: {self.target}>"

    def arg(self, index: int, default: Any = None) -> Any:
        """Return a positional argument, or the default if it was omitted."""
        return self.args[index] if len(self.args) > index else default

    def inputs(self) -> list[OpNode]:
        """Return the nodes among the arguments, including nested ones, in order."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, OpNode)]

    def live_inputs(self) -> list[OpNode]:
        """Return the arguments that depend on the input's values."""
        return [node for node in self.inputs() if node.live]

    @property
    def operator(self) -> Any:
        """The operator without its overload."""
        return getattr(self.target, "overloadpacket", self.target)

    @property
    def operator_name(self) -> str:
        """The name by which PyTorch's users know the operator, also of one of its results."""
        if self.target is getitem and isinstance(self.args[0], OpNode):
            return self.args[0].operator_name
        name = getattr(self.operator, "__name__", str(self.operator))
        # such as _native_batch_norm_legit
        return re.sub(r"^native_|_legit.*$", "", name.rpartition(".")[2].strip("_"))

    @property
    def module(self) -> str:
        """The innermost module that contains the operation; empty for the model itself."""
        return next((scope for scope in reversed(self.scopes) if scope), "")


@dataclass
class CapturedGraph:
    """Nodes in the order of execution; the first is the input."""

    nodes: list[OpNode]

    @property
    def input(self) -> OpNode:
        """The node of the input images."""
        return self.nodes[0]

    def users(self) -> dict[OpNode, list[OpNode]]:
        """Return the nodes that read each node, by node."""
        users: dict[OpNode, list[OpNode]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs():
                users[source].append(node)
        return users

    def terminal_nodes(self) -> list[OpNode]:
        """Return the nodes that no other node reads; computing them computes the whole graph."""
        return [node for node, users in self.users().items() if not users]

    def ancestors(self, targets: Collection[OpNode]) -> list[OpNode]:
        """Return the targets and all nodes that they depend on, in execution order."""
        required, pending = set[OpNode](), list(targets)
        while pending:
            node = pending.pop()
            if node not in required:
                required.add(node)
                pending.extend(node.inputs())
        return [node for node in self.nodes if node in required]

    def mark_live(self) -> None:
        """Mark the nodes that depend on the values of the input."""
        for node in self.nodes:
            shape_only = any(name in str(node.target) for name in SHAPE_ONLY)
            reads_values = not shape_only and not node.counts
            node.live = node is self.input or (reads_values and bool(node.live_inputs()))

    def run(
        self,
        inputs: Tensor,
        targets: Collection[OpNode],
        on_value: Callable[[OpNode, Any], None] = lambda *_: None,
        *,
        keep: Collection[OpNode] = (),
        compute: Callable[[OpNode, dict[OpNode, Any], Tensor], Any] | None = None,
    ) -> dict[OpNode, Any]:
        """Compute the targets as the model would, or with ``compute``.

        ``on_value`` is called with every node and its value. Returns the values of the targets, and
        of those nodes of ``keep`` that were computed.
        """
        order, retained = self.ancestors(targets), {*targets, *keep}
        last_user = {source: node for node in order for source in node.inputs()}
        values: dict[OpNode, Any] = {}
        for node in order:
            values[node] = (compute or execute)(node, values, inputs)
            on_value(node, values[node])
            for source in node.inputs():
                if last_user[source] is node and source not in retained:
                    values.pop(source, None)
        return {node: value for node, value in values.items() if node in retained}


def execute(node: OpNode, values: dict[OpNode, Any], inputs: Tensor) -> Any:
    """Compute one node from the values of the nodes that it reads."""
    if node.target == INPUT:
        return inputs
    args, kwargs = tree_map_only(OpNode, values.__getitem__, (node.args, node.kwargs))
    value = node.target(*args, **kwargs)
    return value.relu() if node.relu else value


def capture(module: nn.Module, example: Tensor) -> CapturedGraph:
    """Capture a module's forward pass, with a dynamic batch size.

    Parameters
    ----------
    module
        Traced in evaluation mode and left unchanged. Half precision is captured as a float32
        copy, since relevance overflows in float16.
    example
        float[b 3 h w], a batch as the model takes it.

    Raises
    ------
    RelevanceError
        If the pass cannot be traced; the text says where.
    """
    module = in_full_precision(module)
    example_pair = prepare_inputs(example[:1], module).repeat(2, 1, 1, 1)
    batch = torch.export.Dim("batch", min=1, max=65536)
    with relevance_errors(
        f"The forward pass of {type(module).__name__} cannot be captured",
        "Expected a pass without branches on tensor values and without quantised layers.",
    ), evaluating(module), torch.no_grad(), _silenced():  # fmt: skip
        try:
            program = torch.export.export(
                module, (example_pair,), dynamic_shapes=({0: batch},), strict=False
            )
        except _UNTRACEABLE:  # a model with a fixed batch size is traced with one image
            program = torch.export.export(module, (example_pair[:1],), strict=False)
        traced = program.run_decompositions({}).module()
    names = module.name_of if isinstance(module, NamedLayers) else str
    return _from_fx(traced.graph, traced, names)


_UNTRACEABLE = (*FAILURES, SpecViolationError)
REMEDY = "Use rules 'gradient' (gradient times input), or crop='activation'."
"""Remedy for a model that the rules do not support."""


@contextmanager
def relevance_errors(value: str, expected: str) -> Iterator[None]:
    """Turn exceptions of a capture or forward pass into a RelevanceError that names the reason.

    Other exceptions pass, such as lack of memory: they are not a property of the model.

    Raises
    ------
    RelevanceError
        From ``value``, followed by the reason in brackets, and ``expected``.
    """
    try:
        yield
    except _UNTRACEABLE as error:
        if out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise RelevanceError(f"{value} ({reason}).", expected, REMEDY) from error


def full_precision(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, and float32 for any other type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return an operator's argument as (vertical, horizontal); one number stands for both."""
    sizes = [value] if isinstance(value, int) else list(value)
    return (sizes[0], sizes[-1])


def prepare_inputs(inputs: Tensor, module: nn.Module) -> Tensor:
    """Move images to the module's device, in float32 (float64 if the module uses it)."""
    first = next(module.parameters(), inputs)
    return inputs.to(first.device, full_precision(first.dtype))


def in_full_precision(module: nn.Module) -> nn.Module:
    """Return the module, or a float32 copy if it computes in half precision."""
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if dtypes <= {torch.float32, torch.float64}:
        return module
    return copy.deepcopy(module).float()


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the tracer's warnings and logs; a failure is reported by our own error."""
    with warnings.catch_warnings(action="ignore"):
        previous_level = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(previous_level)


def _from_fx(graph: fx.Graph, owner: nn.Module, name_of: Callable[[str], str]) -> CapturedGraph:
    """Convert a torch.fx graph, whose constants are attributes of ``owner``."""
    converted: dict[fx.Node, Any] = {}
    nodes: list[OpNode] = []
    for fx_node in graph.nodes:
        if fx_node.op == "placeholder":
            converted[fx_node] = OpNode(fx_node.name, INPUT, shape=_shape(fx_node))
        elif fx_node.op == "get_attr":
            value: Any = attrgetter(str(fx_node.target))(owner)
            converted[fx_node] = value.detach() if isinstance(value, Tensor) else value
            continue
        elif fx_node.op == "call_function" and not _is_check(fx_node):
            stack = fx_node.meta.get("nn_module_stack") or {}
            arguments = (fx_node.args, dict(fx_node.kwargs))
            args, kwargs = tree_map_only(fx.Node, converted.__getitem__, arguments)
            scopes = tuple(name_of(str(entry[0])) for entry in stack.values())
            converted[fx_node] = OpNode(fx_node.name, fx_node.target, args, kwargs, scopes)
            converted[fx_node].shape = _shape(fx_node)
            dtype = getattr(fx_node.meta.get("val"), "dtype", torch.float32)
            converted[fx_node].counts = not (dtype.is_floating_point or dtype.is_complex)
        else:
            continue
        nodes.append(converted[fx_node])
    nodes.sort(key=lambda node: node.target != INPUT)  # stable: the input first
    captured = CapturedGraph(nodes)
    captured.mark_live()
    return captured


def _shape(fx_node: fx.Node) -> tuple[int, ...]:
    sizes = getattr(fx_node.meta.get("val"), "shape", ())
    return tuple(size if isinstance(size, int) else -1 for size in sizes)


def _is_check(fx_node: fx.Node) -> bool:
    """Whether the node is only an assertion."""
    return "assert" in str(fx_node.target) or "guard" in fx_node.name
