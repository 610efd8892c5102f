"""Rewriting a captured graph to fewer kinds of operations that compute the same values.

Batch normalisation is folded into the preceding convolution, constants are computed once, and
operations that do nothing at inference are removed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from semlens.relevance.captured_graph import INPUT, CapturedGraph, OpNode, execute, pair
from semlens.relevance.expansions import EXPANSIONS

aten = torch.ops.aten

BATCH_NORM = (aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default)


def padded_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: Any,
    groups: int,
) -> Tensor:
    """Convolve after zero padding of ``((top, left), (bottom, right))``."""
    (top, left), (bottom, right) = padding
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(padded, weight, bias, stride, 0, dilation, groups)


CONV = (aten.conv2d.default, aten.conv2d.padding, padded_conv2d)
TRANSPOSED = (
    aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input,
)  # fmt: skip
CONVOLUTIONS = (
    *CONV, *TRANSPOSED, aten.conv1d.default, aten.conv1d.padding, aten.conv3d.default,
    aten.conv3d.padding,
)  # fmt: skip
SAME_VALUE = (
    aten.clone.default,
    aten.alias.default,
    aten.dropout.default,
    aten.detach.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
)


def canonicalize(
    graph: CapturedGraph, protected: Collection[OpNode]
) -> tuple[CapturedGraph, Callable[[OpNode], OpNode]]:
    """Rewrite a graph: fold constants, padding, batch normalisation and ReLUs.

    Parameters
    ----------
    protected
        Nodes whose values are needed, and so must remain computable.

    Returns
    -------
    tuple
        The new graph, and a function from each protected node to the node that now has its value.
    """
    replacements: dict[OpNode, Any] = {}

    def current(node: OpNode) -> Any:
        while node in replacements and isinstance(replacements[node], OpNode):
            node = replacements[node]
        return replacements.get(node, node)

    for step in (
        _fold_constants,
        _drop_aliases,
        _expand_fused,
        _fold_padding,
        _fold_batch_norms,
        _fold_relus,
    ):
        graph = step(graph, {current(node) for node in protected}, replacements)
        for node in graph.nodes:
            node.args, node.kwargs = tree_map_only(OpNode, current, (node.args, node.kwargs))
        graph.mark_live()
    return graph, current


NodeValues = dict[OpNode, Any]


def _fold_constants(
    graph: CapturedGraph, protected: Collection[OpNode], replacements: NodeValues
) -> CapturedGraph:
    """Compute the nodes that depend neither on the input nor on its shape."""
    values: NodeValues = {}
    with torch.no_grad():
        for node in graph.nodes:
            if node.target != INPUT and all(source in values for source in node.inputs()):
                values[node] = execute(node, values, torch.empty(0))
    replacements.update(values)
    return CapturedGraph([node for node in graph.nodes if node not in values])


def _drop_aliases(
    graph: CapturedGraph, protected: Collection[OpNode], replacements: NodeValues
) -> CapturedGraph:
    """Drop operations that return their argument unchanged."""
    removed = [n for n in graph.nodes if n.target in SAME_VALUE and isinstance(n.args[0], OpNode)]
    replacements.update({node: node.args[0] for node in removed})
    return CapturedGraph([node for node in graph.nodes if node not in replacements])


def _expand_fused(
    graph: CapturedGraph, protected: Collection[OpNode], replacements: NodeValues
) -> CapturedGraph:
    """Replace operators by plainer ones that have rules."""
    nodes: list[OpNode] = []
    for node in graph.nodes:
        expand = EXPANSIONS.get(node.target)
        nodes += [*(expand(node) if expand else ()), node]
    return CapturedGraph(nodes)


def _fold_padding(
    graph: CapturedGraph, protected: Collection[OpNode], replacements: NodeValues
) -> CapturedGraph:
    """Fold zero padding into the convolution that follows, as in models ported from TensorFlow."""
    users = graph.users()
    removed: set[OpNode] = set()
    for node in graph.nodes:
        pad: Any = node.arg(0)
        edges = _zero_padding(pad) if node.target == aten.conv2d.default else None
        if edges is None or len(users[pad]) > 1 or pad in protected or any(pair(node.arg(4, 0))):
            continue
        left, right, top, bottom = edges
        node.args = (
            pad.args[0], node.arg(1), node.arg(2), node.arg(3, 1), ((top, left), (bottom, right)),
            node.arg(5, 1), node.arg(6, 1),
        )  # fmt: skip
        node.target = padded_conv2d
        removed.add(pad)
    return CapturedGraph([node for node in graph.nodes if node not in removed])


def _zero_padding(node: Any) -> list[int] | None:
    """Return left, right, top and bottom if the node only pads maps with zeros, else None."""
    pads = (aten.pad.default, aten.constant_pad_nd.default)
    if not isinstance(node, OpNode) or node.target not in pads:
        return None
    plain = node.target == aten.constant_pad_nd.default or node.arg(2, "constant") == "constant"
    value = node.arg(3 if node.target == aten.pad.default else 2)
    edges: list[Any] = list(node.arg(1))
    zeros = plain and value in (None, 0) and len(edges) == 4
    if not zeros or not all(isinstance(edge, int) and edge >= 0 for edge in edges):
        return None
    left, right, top, bottom = edges
    return edges if right >= left and bottom >= top else None  # as TensorFlow pads


def _fold_batch_norms(
    graph: CapturedGraph, protected: Collection[OpNode], replacements: NodeValues
) -> CapturedGraph:
    """Fold each batch normalisation into its convolution, or replace it by a scale and a shift."""
    users = graph.users()
    nodes: list[OpNode] = []
    for node in graph.nodes:
        source: Any = node.arg(0)
        if node.target in BATCH_NORM and isinstance(source, OpNode):
            weight, bias, mean, var = node.args[1:5]
            eps = node.args[7] if node.target == aten.batch_norm.default else node.args[6]
            scale = torch.rsqrt(var + eps) * (1 if weight is None else weight)
            shift = (0 if bias is None else bias) - mean * scale
            foldable = source.target in CONVOLUTIONS and isinstance(source.arg(1), Tensor)
            if foldable and len(users[source]) == 1 and source not in protected:
                _scale_convolution(source, scale, shift)
                replacements[node] = source
            else:
                _replace_by_scale_and_shift(node, source, scale, shift, nodes)
        elif (
            node.target is operator.getitem
            and isinstance(source, OpNode)
            and (source in replacements or source.target == aten.add.Tensor)
        ):
            replacements[node] = source  # the normalisation's first output
        else:
            nodes.append(node)
    return CapturedGraph(nodes)


def _scale_convolution(conv: OpNode, scale: Tensor, shift: Tensor) -> None:
    weight, bias = conv.args[1], conv.arg(2)
    kernel_axes = [1] * (weight.ndim - 2)
    if conv.target in TRANSPOSED:  # [i o/groups ...], the outputs of a group in the second axis
        groups = conv.arg(6, 1)
        scales = scale.view(groups, 1, -1, *kernel_axes)
        weight = (weight.unflatten(0, (groups, -1)) * scales).flatten(0, 1)
    else:
        weight = weight * scale.view(-1, 1, *kernel_axes)
    shifted = shift if bias is None else bias * scale + shift
    conv.args = (conv.args[0], weight, shifted, *conv.args[3:])


def _replace_by_scale_and_shift(
    node: OpNode, source: OpNode, scale: Tensor, shift: Tensor, nodes: list[OpNode]
) -> None:
    shape = (-1, *[1] * (len(source.shape) - 2))  # channels are the second axis
    scaled = OpNode(
        f"{node.name}_scale", aten.mul.Tensor, (source, scale.view(shape)), {}, node.scopes
    )
    nodes.append(scaled)
    node.target, node.args, node.kwargs = aten.add.Tensor, (scaled, shift.view(shape)), {}
    nodes.append(node)


def _fold_relus(
    graph: CapturedGraph, protected: Collection[OpNode], replacements: NodeValues
) -> CapturedGraph:
    """Fold each ReLU into the weighted sum before it, if nothing else reads that sum."""
    users = graph.users()
    for node in graph.nodes:
        source: Any = node.arg(0)
        if (
            node.target == aten.relu.default
            and isinstance(source, OpNode)
            and source.target in (*CONVOLUTIONS, aten.linear.default, aten.add.Tensor)
            and len(users[source]) == 1
            and source not in protected
        ):
            source.relu = True
            replacements[node] = source
    return CapturedGraph([node for node in graph.nodes if node not in replacements])
