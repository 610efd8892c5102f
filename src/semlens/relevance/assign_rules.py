"""Assigning a relevance rule to every node of a captured graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from semlens.errors import RelevanceError
from semlens.relevance.canonicalize import CONV, CONVOLUTIONS
from semlens.relevance.captured_graph import REMEDY, CapturedGraph, OpNode
from semlens.relevance.presets import Rules
from semlens.relevance.rules.affine import Affine, Epsilon, Flat, Gamma, ZPlus
from semlens.relevance.rules.base import (
    LOG_SOFTMAX,
    SHARES,
    SLOPES,
    SOFTMAX,
    Activation,
    Attention,
    GroupNorm,
    LayerNorm,
    Product,
    Rule,
    Taylor,
)
from semlens.relevance.rules.structure import (
    LINEAR,
    MAXIMUM,
    RESHAPES,
    Gradient,
    Join,
    MaxPool,
    PooledFlat,
    Reshape,
    Sum,
)

aten = torch.ops.aten

WEIGHTED_SUMS = (*CONVOLUTIONS, aten.linear.default)
PRODUCTS = (aten.mul.Tensor, aten.div.Tensor, aten.matmul.default, aten.bmm.default)
GATES = {
    aten.sigmoid.default, aten.hardsigmoid.default, aten.rsqrt.default, aten.sqrt.default,
    aten.reciprocal.default, aten.sign.default, aten.linalg_vector_norm.default,
    aten.var.correction, aten.exp.default,
}  # fmt: skip
"""Operators whose results scale another value, such as the gate of squeeze-and-excitation."""

NONNEGATIVE = {
    aten.relu.default, aten.relu6.default, aten.sigmoid.default, aten.hardsigmoid.default,
    aten.softplus.default, aten.abs.default, aten.exp.default, aten.sqrt.default, *SOFTMAX,
}  # fmt: skip
_CHANGES_SIGN = {
    aten.sub, aten.neg, aten.rsub, aten.index, aten.where, aten.masked_fill, aten.minimum,
    aten.upsample_bicubic2d, aten.pad, aten.constant_pad_nd, aten.slice_scatter,
}  # fmt: skip
PRESERVES_SIGN = (LINEAR | MAXIMUM) - _CHANGES_SIGN
_GRADIENT = LINEAR | MAXIMUM
_ELEMENTWISE = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)


def assign_rules(
    graph: CapturedGraph, rules: Rules, targets: Collection[OpNode]
) -> dict[OpNode, Rule]:
    """Return the rule of every node that relevance seeded at the targets can reach.

    Raises
    ------
    RelevanceError
        If some of these operations have no rule; the text lists them.
    """
    rule_of = _RuleChooser(graph, rules, set(targets))
    node_rules: dict[OpNode, Rule] = {}
    unsupported: dict[str, list[OpNode]] = {}
    reached = {node for node in targets if node.live}
    for node in reversed(graph.nodes):
        if node not in reached or node is graph.input:
            continue
        rule = rule_of(node)
        if rule is None:  # what lies below is looked at, too, so that all of them are named
            reached.update(node.live_inputs())
            if node.target is not getitem:  # one result of several: its operator is named
                unsupported.setdefault(node.operator_name, []).append(node)
            continue
        node_rules[node] = rule
        if not rule.ends_at_pixels:
            reached.update(rule.receivers())
    if unsupported:
        operators = ", ".join(
            f"{name} ({len(nodes)} x{_place(nodes[-1])})"  # the first of them
            for name, nodes in sorted(unsupported.items())
        )
        raise RelevanceError(
            f"The model uses operations without a relevance rule: {operators}.",
            "Expected operations of CNNs and vision transformers; docs/relevance.md lists them.",
            REMEDY,
        )
    return node_rules


def _place(node: OpNode) -> str:
    """Return the module that contains an operation, if it is not the model itself."""
    return f", in '{node.module}'" if node.module else ""


def has_attention(graph: CapturedGraph) -> bool:
    """Whether the model has attention: a softmax over values that depend on the input."""
    kinds = (*SOFTMAX, aten.scaled_dot_product_attention.default)
    users = graph.users()
    return any(node.live and node.target in kinds and users[node] for node in graph.nodes)


def nonnegative_nodes(graph: CapturedGraph) -> set[OpNode]:
    """Return the nodes whose values can never be negative."""
    nodes: set[OpNode] = set()
    for node in graph.nodes:
        sources = node.live_inputs()
        is_clamp = node.target in (
            aten.hardtanh.default,
            aten.clamp.default,
            aten.clamp_min.default,
        )
        minimum = node.arg(1)
        preserves_sign = node.operator in PRESERVES_SIGN or node.target == aten.mul.Tensor
        sources_nonnegative = bool(sources) and all(source in nodes for source in sources)
        if (
            node.relu
            or node.target in NONNEGATIVE
            or (is_clamp and isinstance(minimum, int | float) and minimum >= 0)
            or (preserves_sign and sources_nonnegative and _constants_nonnegative(node))
        ):
            nodes.add(node)
    return nodes


def _constants_nonnegative(node: OpNode) -> bool:
    """Whether the constants among a node's arguments are not negative."""
    if node.target in _ELEMENTWISE:
        numbers = [v for v in (*node.args, *node.kwargs.values()) if isinstance(v, int | float)]
        if any(number < 0 for number in numbers):
            return False
    tensors = [leaf for leaf in tree_leaves(node.args) if isinstance(leaf, torch.Tensor)]
    constants = [source.target for source in node.inputs() if not source.live]
    # batch sizes, and arithmetic with them
    sizes = ("sym_size" in str(t) or getattr(t, "__module__", "") == "_operator" for t in constants)
    return all(sizes) and not any(bool((tensor < 0).any()) for tensor in tensors)


def _first_sums(graph: CapturedGraph) -> set[OpNode]:
    """Return the first weighted sums: no other weighted sum lies between them and the input."""
    after_sum: set[OpNode] = set()
    first_sums: set[OpNode] = set()
    for node in graph.nodes:
        if any(source in after_sum for source in node.live_inputs()):
            after_sum.add(node)
        elif node.live and node.target in WEIGHTED_SUMS:
            first_sums.add(node)
            after_sum.add(node)
    return first_sums


def _reads_pixels(node: OpNode, image: OpNode) -> bool:
    """Whether a sum reads pixel positions: only elementwise steps lie between it and the image."""
    if node.target not in CONV:
        return False
    source: Any = node.args[0]
    while source is not image:
        if source.target not in _ELEMENTWISE or len(source.live_inputs()) != 1:
            return False
        source = source.live_inputs()[0]
    return True


@dataclass
class _RuleChooser:
    """Chooses the rule of each node of a graph."""

    graph: CapturedGraph
    rules: Rules
    targets: set[OpNode]

    def __post_init__(self) -> None:
        self.first = _first_sums(self.graph)
        self.nonnegative = nonnegative_nodes(self.graph)
        self.users = self.graph.users()

    def __call__(self, node: OpNode) -> Rule | None:
        """Return the node's rule, or None if its operation is not supported."""
        target = node.target
        if target in _MAY_EXCLUDE_ZERO:
            return _elementwise(node)
        if target in _RULES_BY_OPERATOR:
            return _RULES_BY_OPERATOR[target](node)
        if target in WEIGHTED_SUMS:
            constant = all(not isinstance(value, OpNode) for value in node.args[1:3])
            return self._sum(node) if constant else None
        if target in PRODUCTS:
            return self._product(node)
        if target == aten.scaled_dot_product_attention.default:
            grouped = node.kwargs.get("enable_gqa")
            return None if grouped else Attention(node, self.rules.attention == "constant")
        if target in (aten.add.Tensor, aten.sub.Tensor):
            return Sum(node, self.rules.epsilon)
        if target == aten.max_pool2d.default and MaxPool.handles(node):
            return self._pool(node)
        return Gradient(node) if node.operator in _GRADIENT else None

    def _pool(self, node: OpNode) -> Rule:
        source: OpNode = node.args[0]
        sole_reader = len(self.users[source]) == 1 and source not in self.targets
        source_rule = self(source) if sole_reader and source.target in WEIGHTED_SUMS else None
        return PooledFlat(node, source_rule) if isinstance(source_rule, Flat) else MaxPool(node)

    def _product(self, node: OpNode) -> Rule | None:
        dividend = node.args[0]
        if node.target == aten.div.Tensor and not (isinstance(dividend, OpNode) and dividend.live):
            return None
        softmax_gates = self.rules.attention == "constant"
        return Product(node, lambda factor: _is_gate(factor, softmax_gates))

    def _sum(self, node: OpNode) -> Affine:
        rules = self.rules
        is_dense, is_first = node.target == aten.linear.default, node in self.first
        name = rules.rule_for(node.scopes, "first" if is_first else "dense" if is_dense else "conv")
        if name == "flat" and not (is_first and _reads_pixels(node, self.graph.input)):
            # the flat rule needs pixels to spread relevance over
            name = "epsilon" if is_dense else "zplus"
        nonnegative = node.args[0] in self.nonnegative
        match name:
            case "flat":
                return Flat(node, rules.epsilon, self.graph.input)
            case "zplus":
                return ZPlus(node, nonnegative, rules.epsilon)
            case "gamma":
                gamma = rules.gamma_dense if is_dense else rules.gamma_conv
                return Gamma(node, nonnegative, rules.epsilon, gamma)
            case "epsilon":
                return Epsilon(node, nonnegative, rules.epsilon)


_RULES_BY_OPERATOR: Mapping[Any, type[Rule]] = {
    **dict.fromkeys((*SLOPES, *SOFTMAX, *LOG_SOFTMAX), Taylor),
    **dict.fromkeys(SHARES, Activation),
    **dict.fromkeys((aten.layer_norm.default, aten.rms_norm.default), LayerNorm),
    aten.group_norm.default: GroupNorm,
    aten.cat.default: Join,
    **dict.fromkeys(RESHAPES, Reshape),
}


_CLAMPS = (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
_MAY_EXCLUDE_ZERO = (*_CLAMPS, aten.pow.Tensor_Scalar)


def _elementwise(node: OpNode) -> Rule | None:
    """Return the rule of a function that is zero at zero or not, depending on its arguments."""
    if node.target not in _CLAMPS:
        return Activation(node) if node.args[1] > 0 else None
    names = {aten.clamp_max.default: ("max",)}.get(node.target, ("min", "max"))
    bounds = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    low, high = bounds.get("min"), bounds.get("max")
    includes_zero = (low is None or low <= 0) and (high is None or high >= 0)
    return Activation(node) if includes_zero else Taylor(node)


def _is_gate(node: OpNode, softmax: bool) -> bool:
    """Whether a factor depends on the input through gates only."""
    if node.target in GATES or (softmax and node.target in SOFTMAX):
        return True
    passes = node.operator in LINEAR or node.target in (*_ELEMENTWISE, aten.clamp_min.default)
    sources = node.live_inputs()
    return bool(passes and sources) and all(_is_gate(source, softmax) for source in sources)
