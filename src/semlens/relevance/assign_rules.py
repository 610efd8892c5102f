"""Giving every node of a graph its rule, and saying which operations have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from semlens.errors import RelevanceError
from semlens.relevance.canonicalize import CONV
from semlens.relevance.captured_graph import REMEDY, CapturedGraph, OpNode
from semlens.relevance.presets import Rules
from semlens.relevance.rules.activation import SHARES, Activation, GroupNorm, LayerNorm, Taylor
from semlens.relevance.rules.affine import Affine, Epsilon, Flat, Gamma, ZPlus
from semlens.relevance.rules.base import Rule
from semlens.relevance.rules.product import Attention, Product
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

SUMS = (*CONV, aten.linear.default)
PRODUCTS = (aten.mul.Tensor, aten.div.Tensor, aten.matmul.default, aten.bmm.default)
SOFTMAX = (aten.softmax.int, aten._softmax.default)
GATES = {
    aten.sigmoid.default, aten.hardsigmoid.default, aten.rsqrt.default, aten.sqrt.default,
    aten.reciprocal.default, aten.linalg_vector_norm.default, aten.var.correction, aten.exp.default,
}  # fmt: skip
"""What scales something else rather than being something."""

NONNEGATIVE = {
    aten.relu.default, aten.relu6.default, aten.sigmoid.default, aten.hardsigmoid.default,
    aten.abs.default, aten.exp.default, *SOFTMAX,
}  # fmt: skip
_BREAKS_SIGN = {
    aten.sub, aten.neg, aten.rsub, aten.index, aten.where, aten.masked_fill, aten.minimum,
    aten.upsample_bicubic2d, aten.pad, aten.constant_pad_nd, aten.slice_scatter,
}  # fmt: skip
KEEPS_SIGN = (LINEAR | MAXIMUM) - _BREAKS_SIGN
_ELEMENTWISE = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor)


def assign_rules(
    graph: CapturedGraph, rules: Rules, targets: Collection[OpNode]
) -> dict[OpNode, Rule]:
    """Return the rule of every node that relevance from the targets can reach.

    Raises
    ------
    RelevanceError
        If it reaches operations without a rule; the text lists them.
    """
    choose = _RuleChooser(graph, rules, set(targets))
    bound: dict[OpNode, Rule] = {}
    unknown = Counter[str]()
    reached = {node for node in targets if node.live}
    for node in reversed(graph.nodes):
        if node not in reached or node is graph.input:
            continue
        rule = choose(node)
        if rule is None:
            unknown[str(node.target).removeprefix("aten.").partition(".")[0]] += 1
            continue
        bound[node] = rule
        if not rule.final:
            reached.update(rule.receivers())
    if unknown:
        listed = ", ".join(f"{name} ({count} x)" for name, count in sorted(unknown.items()))
        raise RelevanceError(
            f"The model uses operations without a relevance rule: {listed}.",
            "Expected those of CNNs and vision transformers; docs/relevance.md lists them.",
            REMEDY,
        )
    return bound


def has_attention(graph: CapturedGraph) -> bool:
    """Whether the model attends: it has a softmax over something that depends on the input."""
    kinds = (*SOFTMAX, aten.scaled_dot_product_attention.default)
    users = graph.users()
    return any(node.live and node.target in kinds and users[node] for node in graph.nodes)


def nonnegative(graph: CapturedGraph) -> set[OpNode]:
    """Find the nodes whose values can never be negative."""
    found: set[OpNode] = set()
    for node in graph.nodes:
        sources = node.live_inputs()
        packet = getattr(node.target, "overloadpacket", None)
        clamped = node.target in (aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)
        lowest = node.arg(1)
        keeps = packet in KEEPS_SIGN or node.target == aten.mul.Tensor
        below = bool(sources) and all(source in found for source in sources)
        if (
            node.relu
            or node.target in NONNEGATIVE
            or (clamped and isinstance(lowest, int | float) and lowest >= 0)
            or (keeps and below and _constants_positive(node))
        ):
            found.add(node)
    return found


def _constants_positive(node: OpNode) -> bool:
    """Whether the tensors, and the numbers of sums and products, are not negative."""
    if node.target in _ELEMENTWISE:
        numbers = [v for v in (*node.args, *node.kwargs.values()) if isinstance(v, int | float)]
        if any(number < 0 for number in numbers):
            return False
    tensors = [leaf for leaf in tree_leaves(node.args) if isinstance(leaf, torch.Tensor)]
    others = [source.target for source in node.inputs() if not source.live]
    # batch sizes, and arithmetic with them
    sizes = ("sym_size" in str(t) or getattr(t, "__module__", "") == "_operator" for t in others)
    return all(sizes) and not any(bool((tensor < 0).any()) for tensor in tensors)


def _first_sums(graph: CapturedGraph) -> set[OpNode]:
    """Find the weighted sums that read pixels: none stands between them and the input."""
    behind: set[OpNode] = set()
    first: set[OpNode] = set()
    for node in graph.nodes:
        if any(source in behind for source in node.live_inputs()):
            behind.add(node)
        elif node.live and node.target in SUMS:
            first.add(node)
            behind.add(node)
    return first


def _reads_pixels(node: OpNode, image: OpNode) -> bool:
    """Whether a sum's input has the image's own positions: only elementwise steps lie between."""
    if node.target == aten.linear.default:
        return False
    source: Any = node.args[0]
    while source is not image:
        if source.target not in _ELEMENTWISE or len(source.live_inputs()) != 1:
            return False
        source = source.live_inputs()[0]
    return True


@dataclass
class _RuleChooser:
    """Chooses the rule of one node after another."""

    graph: CapturedGraph
    rules: Rules
    targets: set[OpNode]

    def __post_init__(self) -> None:
        self.first = _first_sums(self.graph)
        self.positive = nonnegative(self.graph)
        self.users = self.graph.users()

    def __call__(self, node: OpNode) -> Rule | None:
        """Return the node's rule, or None when there is none."""
        target = node.target
        if target in _SIMPLE:
            return _SIMPLE[target](node)
        if target in SUMS:
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
        packet = getattr(target, "overloadpacket", None)
        return Gradient(node) if packet in LINEAR or packet in MAXIMUM else None

    def _pool(self, node: OpNode) -> Rule:
        source: OpNode = node.args[0]
        alone = len(self.users[source]) == 1 and source not in self.targets
        below = self(source) if alone and source.target in SUMS else None
        return PooledFlat(node, below) if isinstance(below, Flat) else MaxPool(node)

    def _product(self, node: OpNode) -> Rule | None:
        top = node.args[0]
        if node.target == aten.div.Tensor and not (isinstance(top, OpNode) and top.live):
            return None
        softmax_gates = self.rules.attention == "constant"
        return Product(node, lambda factor: _is_gate(factor, softmax_gates))

    def _sum(self, node: OpNode) -> Affine:
        rules = self.rules
        dense, first = node.target == aten.linear.default, node in self.first
        name = rules.at(node.scopes, "first" if first else "dense" if dense else "conv")
        if name == "flat" and not (first and _reads_pixels(node, self.graph.input)):
            # without pixels below there is nothing to spread over
            name = "epsilon" if dense else "zplus"
        known = node.args[0] in self.positive
        match name:
            case "flat":
                return Flat(node, rules.epsilon, self.graph.input)
            case "zplus":
                return ZPlus(node, known, rules.epsilon)
            case "gamma":
                gamma = rules.gamma_dense if dense else rules.gamma_conv
                return Gamma(node, known, rules.epsilon, gamma)
            case "epsilon":
                return Epsilon(node, known, rules.epsilon)


_SIMPLE: Mapping[Any, type[Rule]] = {
    **dict.fromkeys(SHARES, Activation),
    **dict.fromkeys((*SOFTMAX, aten.sigmoid.default), Taylor),
    **dict.fromkeys((aten.layer_norm.default, aten.rms_norm.default), LayerNorm),
    aten.group_norm.default: GroupNorm,
    aten.cat.default: Join,
    **dict.fromkeys(RESHAPES, Reshape),
}


def _is_gate(node: OpNode, softmax: bool) -> bool:
    """Whether all that a factor says of the input has gone through a gate."""
    if node.target in GATES or (softmax and node.target in SOFTMAX):
        return True
    packet = getattr(node.target, "overloadpacket", None)
    passes = packet in LINEAR or node.target in (*_ELEMENTWISE, aten.clamp_min.default)
    sources = node.live_inputs()
    return bool(passes and sources) and all(_is_gate(source, softmax) for source in sources)
