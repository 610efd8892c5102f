"""Rewriting a captured graph so that few rules suffice; the values that it computes stay.

Batch normalisation is folded into the convolution before it, constants are computed once,
and operations that do nothing at inference are taken out.
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
    """Convolve after zero padding before (top, left) and after (bottom, right)."""
    (top, left), (bottom, right) = padding
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(padded, weight, bias, stride, 0, dilation, groups)


CONV = (aten.conv2d.default, aten.conv2d.padding, padded_conv2d)
MATRIX = (aten.mm.default, aten.matmul.default)
SAME_VALUE = (
    aten.clone.default,
    aten.alias.default,
    aten.dropout.default,
    aten.detach.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
)


def canonicalize(
    graph: CapturedGraph, kept: Collection[OpNode]
) -> tuple[CapturedGraph, Callable[[OpNode], OpNode]]:
    """Fold what can be folded.

    Parameters
    ----------
    kept
        Nodes whose values are asked for, and so must still be there.

    Returns
    -------
    tuple
        The new graph, and where each kept node's value is now.
    """
    stands_for: dict[OpNode, Any] = {}

    def now(node: OpNode) -> Any:
        while node in stands_for and isinstance(stands_for[node], OpNode):
            node = stands_for[node]
        return stands_for.get(node, node)

    for step in (_constants, _aliases, _spelled_out, _paddings, _batch_norms, _relus):
        graph = step(graph, {now(node) for node in kept}, stands_for)
        for node in graph.nodes:
            node.args, node.kwargs = tree_map_only(OpNode, now, (node.args, node.kwargs))
        graph.mark_live()
    return graph, now


Known = dict[OpNode, Any]


def _constants(graph: CapturedGraph, kept: Collection[OpNode], stands_for: Known) -> CapturedGraph:
    """Compute what depends neither on the input nor on its shape."""
    values: Known = {}
    with torch.no_grad():
        for node in graph.nodes:
            if node.target != INPUT and all(source in values for source in node.inputs()):
                values[node] = execute(node, values, torch.empty(0))
    stands_for.update(values)
    return CapturedGraph([node for node in graph.nodes if node not in values])


def _aliases(graph: CapturedGraph, kept: Collection[OpNode], stands_for: Known) -> CapturedGraph:
    """Drop operations that return what they are given."""
    gone = [n for n in graph.nodes if n.target in SAME_VALUE and isinstance(n.args[0], OpNode)]
    stands_for.update({node: node.args[0] for node in gone})
    return CapturedGraph([node for node in graph.nodes if node not in stands_for])


def _spelled_out(
    graph: CapturedGraph, kept: Collection[OpNode], stands_for: Known
) -> CapturedGraph:
    """Write fused operators as the plain ones that have rules."""
    nodes: list[OpNode] = []
    for node in graph.nodes:
        args = node.args
        if node.target == aten.addcmul.default:
            product = OpNode(f"{node.name}_mul", aten.mul.Tensor, args[1:3], {}, node.scopes)
            scale = node.kwargs.get("value", 1)
            node.target, node.args = aten.add.Tensor, (args[0], product)
            node.kwargs = {"alpha": scale} if scale != 1 else {}
            nodes.append(product)
        elif node.target == aten.addmm.default and isinstance(args[2], Tensor) and not node.kwargs:
            node.target, node.args = aten.linear.default, (args[1], args[2].T, args[0])
        elif node.target in MATRIX and isinstance(args[1], Tensor) and args[1].ndim == 2:
            node.target, node.args = aten.linear.default, (args[0], args[1].T)
        elif node.target == aten.linear.default and isinstance(args[1], OpNode):
            flipped = OpNode(
                f"{node.name}_t", aten.transpose.int, (args[1], -2, -1), {}, node.scopes
            )
            product = OpNode(
                f"{node.name}_mm", aten.matmul.default, (args[0], flipped), {}, node.scopes
            )
            if node.arg(2) is None:
                nodes.append(flipped)
                node.target, node.args = product.target, product.args
            else:
                nodes += [flipped, product]
                node.target, node.args = aten.add.Tensor, (product, args[2])
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # memory order is ours to choose
        elif node.target is operator.getitem and isinstance(args[0], OpNode):
            _as_part(node, args[0], int(args[1]))
        nodes.append(node)
    return CapturedGraph(nodes)


def _as_part(node: OpNode, whole: OpNode, place: int) -> None:
    """Write one of several outputs as an operation of its own on what was taken apart."""
    source = whole.arg(0)
    axis = whole.arg(2, whole.kwargs.get("dim", 0))
    if whole.target == aten.unbind.int:
        axis = whole.arg(1, whole.kwargs.get("dim", 0))
        node.target, node.args = aten.select.int, (source, axis, place)
    elif whole.target in (aten.split.Tensor, aten.split_with_sizes.default):
        given = whole.arg(1)
        sizes = [given] * (place + 1) if whole.target == aten.split.Tensor else given
        node.target = aten.slice.Tensor
        node.args = (source, axis, sum(sizes[:place]), sum(sizes[: place + 1]))
    elif whole.target == aten.max_pool2d_with_indices.default and place == 0:
        node.target, node.args = aten.max_pool2d.default, whole.args
    elif (whole.target, place) == (aten.adaptive_max_pool2d.default, 0) and (
        pair(whole.arg(1)) == (1, 1)
    ):
        node.target, node.args = aten.amax.default, (source, [-2, -1], True)
    elif whole.target == aten.max.dim and place == 0:
        node.target, node.args = aten.amax.default, (source, [whole.arg(1)], whole.arg(2, False))
    else:
        return
    node.kwargs = {}


def _paddings(graph: CapturedGraph, kept: Collection[OpNode], stands_for: Known) -> CapturedGraph:
    """Make zero padding part of the convolution behind it, as TensorFlow's models have it."""
    users = graph.users()
    gone: set[OpNode] = set()
    for node in graph.nodes:
        pad: Any = node.arg(0)
        edges = _zeros_around(pad) if node.target == aten.conv2d.default else None
        if edges is None or len(users[pad]) > 1 or pad in kept or any(pair(node.arg(4, 0))):
            continue
        left, right, top, bottom = edges
        node.args = (
            pad.args[0], node.arg(1), node.arg(2), node.arg(3, 1), ((top, left), (bottom, right)),
            node.arg(5, 1), node.arg(6, 1),
        )  # fmt: skip
        node.target = padded_conv2d
        gone.add(pad)
    return CapturedGraph([node for node in graph.nodes if node not in gone])


def _zeros_around(node: Any) -> list[int] | None:
    """Return left, right, top and bottom, if this is a node that only adds zeros around maps."""
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


def _batch_norms(
    graph: CapturedGraph, kept: Collection[OpNode], stands_for: Known
) -> CapturedGraph:
    """Fold each batch normalisation into its convolution, or make it a scale and a shift."""
    users = graph.users()
    nodes: list[OpNode] = []
    for node in graph.nodes:
        source: Any = node.arg(0)
        if node.target in BATCH_NORM and isinstance(source, OpNode):
            weight, bias, mean, var = node.args[1:5]
            eps = node.args[7] if node.target == aten.batch_norm.default else node.args[6]
            scale = torch.rsqrt(var + eps) * (1 if weight is None else weight)
            shift = (0 if bias is None else bias) - mean * scale
            if source.target in CONV and len(users[source]) == 1 and source not in kept:
                _scale_conv(source, scale, shift)
                stands_for[node] = source
            else:
                _as_affine(node, source, scale, shift, nodes)
        elif (
            node.target is operator.getitem
            and isinstance(source, OpNode)
            and (source in stands_for or source.target == aten.add.Tensor)
        ):
            stands_for[node] = source  # the normalisation's first output
        else:
            nodes.append(node)
    return CapturedGraph(nodes)


def _scale_conv(conv: OpNode, scale: Tensor, shift: Tensor) -> None:
    weight, bias = conv.args[1] * scale[:, None, None, None], conv.arg(2)
    shifted = shift if bias is None else bias * scale + shift
    conv.args = (conv.args[0], weight, shifted, *conv.args[3:])


def _as_affine(
    node: OpNode, source: OpNode, scale: Tensor, shift: Tensor, nodes: list[OpNode]
) -> None:
    shape = (-1, *[1] * (source.axes - 2))  # channels are the second axis
    scaled = OpNode(
        f"{node.name}_scale", aten.mul.Tensor, (source, scale.view(shape)), {}, node.scopes
    )
    nodes.append(scaled)
    node.target, node.args, node.kwargs = aten.add.Tensor, (scaled, shift.view(shape)), {}
    nodes.append(node)


def _relus(graph: CapturedGraph, kept: Collection[OpNode], stands_for: Known) -> CapturedGraph:
    """Make a ReLU part of the sum that nothing else reads."""
    users = graph.users()
    for node in graph.nodes:
        source: Any = node.arg(0)
        if (
            node.target == aten.relu.default
            and isinstance(source, OpNode)
            and source.target in (*CONV, aten.linear.default, aten.add.Tensor)
            and len(users[source]) == 1
            and source not in kept
        ):
            source.relu = True
            stands_for[node] = source
    return CapturedGraph([node for node in graph.nodes if node not in stands_for])
