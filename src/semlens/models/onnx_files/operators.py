"""Operators: with weights, activations, reductions, attention, and what moves or cuts values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult, get_const_value
from torch import Tensor, nn
from torch.nn import functional

DOMAIN = "semlens"
"""Domain of nodes that are converted here."""
WITHOUT_SETTINGS = ("Attention", "Concat", "GlobalMaxPool", "Gelu", "HardSigmoid", "Mish")
"""Operators whose inputs are all values; those of others are settings, but for the first."""

OPERATORS = set[str]()
"""Names of the operators that are converted here if their settings are constants."""

Constants = Callable[..., Any]
"""From the index of an input, and a default, to its value, which is constant."""
Make = Callable[[OnnxNode, Constants], nn.Module]


def operator(*names: str, inputs: int = 1) -> Callable[[Make], Make]:
    """Register a function from a node, and a reader of its constant inputs, to a module.

    Parameters
    ----------
    inputs
        How many inputs the module takes; the others are settings. 0 stands for all.
    """

    def register(make: Make) -> Make:
        def convert(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
            def constant(index: int, default: Any = None) -> Any:
                given = len(node.input_values) > index and node.input_values[index]
                return get_const_value(node.input_values[index], graph) if given else default

            taken = node.input_values[: inputs or None]
            return OperationConverterResult(
                make(node, constant), OnnxMapping(taken, node.output_values)
            )

        for name in names:
            add_converter(name, 1, DOMAIN)(convert)
            OPERATORS.add(name)
        return make

    return register


class Operation(nn.Module):
    """An operation without weights, whose settings are part of its text (and fingerprint)."""

    def __init__(self, function: Callable[..., Any], **settings: Any) -> None:
        super().__init__()
        self.function = function
        self.settings = settings

    def forward(self, *inputs: Tensor) -> Any:
        """Apply the function."""
        return self.function(*inputs, **self.settings)

    def extra_repr(self) -> str:
        """Return the function and its settings."""
        given = [f"{key}={value}" for key, value in self.settings.items()]
        return ", ".join([self.function.__name__.strip("_"), *given])


def _mean(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.mean(dim, keepdim)


def _sum(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.sum(dim, keepdim)


def _norm(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return torch.linalg.vector_norm(x, 2, dim, keepdim)


_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": _mean, "ReduceSum": _sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin,
    "ReduceL2": _norm,
}  # fmt: skip


@operator(*_REDUCTIONS)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    axes = node.attributes.get("axes")
    given = constant(1) if axes is None else torch.tensor(axes)
    keepdim = bool(node.attributes.get("keepdims", 1))
    if given is None or not len(given):
        if node.attributes.get("noop_with_empty_axes", 0):
            return nn.Identity()
        raise NotImplementedError(f"{node.operation_type} over all axes is not implemented")
    return Operation(_REDUCTIONS[node.operation_type], dim=tuple(given.tolist()), keepdim=keepdim)


@operator("GlobalMaxPool")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return nn.AdaptiveMaxPool2d(1)


@operator("MatMul")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    weight, bias = constant(1), constant(2)
    module = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None)
    module.weight.data = weight.T.contiguous()
    if bias is not None:
        module.bias.data = bias
    return module


@operator("Gelu")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return nn.GELU(node.attributes.get("approximate", "none"))


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@operator("HardSigmoid")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-6:  # torch's, for which there are LRP rules
        return nn.Hardsigmoid()
    return Operation(_hard_sigmoid, alpha=alpha, beta=beta)


@operator("Mish")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return nn.Mish()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None,
    is_causal: bool,
) -> Tensor:
    return functional.scaled_dot_product_attention(
        query, key, value, mask, scale=scale, is_causal=is_causal
    )


@operator("Attention", inputs=0)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    supported = {"scale", "is_causal", "softmax_precision"}
    changed = {k for k, v in node.attributes.items() if v and k not in supported}
    if changed or len(node.input_values) > 4 or len(node.output_values) > 1:
        raise NotImplementedError(f"Attention with {', '.join(sorted(changed)) or 'a cache'}")
    causal = bool(node.attributes.get("is_causal", 0))
    return Operation(_attention, scale=node.attributes.get("scale"), is_causal=causal)


@operator("GroupNormalization")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    weight, bias = constant(1), constant(2)
    groups, epsilon = node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)
    module = nn.GroupNorm(groups, len(weight), epsilon)
    module.weight.data, module.bias.data = weight, bias
    return module


def _sizes(images: Tensor, fixed: Sequence[int], per_image: Sequence[int]) -> list[Any]:
    """Return sizes; those that grow are symbols while the network is captured."""
    return [
        size + rate * images.shape[0] if rate else size
        for size, rate in zip(fixed, per_image, strict=True)
    ]


def _reshape(x: Tensor, images: Tensor, fixed: Sequence[int], per_image: Sequence[int]) -> Tensor:
    if sum(map(bool, per_image)) == 1:
        return x.reshape([-1 if rate else n for n, rate in zip(fixed, per_image, strict=True)])
    return x.reshape(_sizes(images, fixed, per_image))


def _expand(x: Tensor, images: Tensor, fixed: Sequence[int], per_image: Sequence[int]) -> Tensor:
    return x.expand(_sizes(images, fixed, per_image))


def _filled(
    images: Tensor, fixed: Sequence[int], per_image: Sequence[int], value: float, dtype: torch.dtype
) -> Tensor:
    sizes = _sizes(images, fixed, per_image)
    return torch.full(sizes, value, dtype=dtype, device=images.device)


def _growing(node: OnnxNode) -> dict[str, list[int]]:
    # an empty list of numbers cannot be told from an attribute of another kind
    read = {a.name: list(a.ints) for a in node.proto.attribute}
    return {"fixed": read["fixed"], "per_image": read["per_image"]}


@operator("Reshape", inputs=2)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_reshape, **_growing(node))


@operator("Expand", inputs=2)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_expand, **_growing(node))


@operator("ConstantOfShape")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    given = node.attributes.get("value")
    value = torch.zeros(1) if given is None else given.to_torch()
    return Operation(_filled, **_growing(node), value=value.item(), dtype=value.dtype)


def _concatenate(*parts: Tensor, dim: int) -> Tensor:
    batch = max(part.shape[0] for part in parts)
    if dim % parts[0].ndim == 0 or all(part.shape[0] == batch for part in parts):
        return torch.cat(parts, dim)
    # a class token of a graph with a fixed batch of 1
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], dim)


@operator("Concat", inputs=0)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_concatenate, dim=node.attributes["axis"])


def _split(x: Tensor, sizes: Sequence[int], dim: int) -> tuple[Tensor, ...]:
    return torch.split(x, list(sizes), dim)


@operator("Split")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_split, sizes=node.attributes["sizes"], dim=node.attributes.get("axis", 0))


def _slice(x: Tensor, bounds: Sequence[tuple[int, int, int, int]]) -> Tensor:
    for axis, start, stop, step in bounds:
        if step > 0:
            x = x[(*[slice(None)] * (axis % x.ndim), slice(start, stop, step))]
        else:
            order = list(range(x.shape[axis]))[start:stop:step]
            x = x.index_select(axis, torch.tensor(order, device=x.device))
    return x


@operator("Slice")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    if len(node.input_values) == 1:  # before opset 10
        starts, stops = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, stops = constant(1).tolist(), constant(2).tolist()
        axes = constant(3, torch.arange(len(starts))).tolist()
        steps = constant(4, torch.ones(len(starts), dtype=torch.int64)).tolist()
    return Operation(_slice, bounds=list(zip(axes, starts, stops, steps, strict=True)))


@operator("Pad")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    pads = node.attributes.get("pads") or constant(1).tolist()
    value = float(constant(2, node.attributes.get("value", 0.0)))
    rank = len(pads) // 2
    axes = constant(3, torch.arange(rank)).tolist()
    if min(axes) < 0 or sorted(axes) != list(range(rank)):
        raise NotImplementedError("Pad with axes is not implemented")
    order = sorted(range(rank), key=lambda i: -axes[i])  # torch lists the last axis first
    pairs = [(pads[i], pads[i + rank]) for i in order]
    while len(pairs) > 1 and pairs[-1] == (0, 0):
        pairs.pop()
    mode = modes[node.attributes.get("mode", "constant")]
    settings = {"value": value} if mode == "constant" else {}
    flat = [size for pair in pairs for size in pair]
    return Operation(functional.pad, pad=flat, mode=mode, **settings)


def _squeeze(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    return x.squeeze(dim)


def _unsqueeze(x: Tensor, dim: Sequence[int]) -> Tensor:
    rank = x.ndim + len(dim)
    for axis in sorted(axis % rank for axis in dim):
        x = x.unsqueeze(axis)
    return x


@operator("Squeeze", "Unsqueeze")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    axes = node.attributes.get("axes")
    given = tuple(constant(1).tolist() if axes is None else axes)
    return Operation(_squeeze if node.operation_type == "Squeeze" else _unsqueeze, dim=given)


_SAMPLED = {
    "asymmetric": False, "half_pixel": False, "pytorch_half_pixel": False, "align_corners": True,
}  # fmt: skip
"""Whether corners are aligned, by how ONNX says where samples lie. Which of these torch computes
alike depends on the factors; the comparison with onnxruntime decides."""


@operator("Resize")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    # before opset 11 the second input are the scales
    scales, sizes = constant(2 if len(node.input_values) > 2 else 1), constant(3)
    mode, where = (
        node.attributes.get("mode", "nearest"),
        node.attributes.get("coordinate_transformation_mode", "half_pixel"),
    )
    given = [factor for factor in (scales, sizes) if factor is not None and len(factor)]
    modes = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
    if len(given) != 1 or len(given[0]) != 4 or mode not in modes or where not in _SAMPLED:
        raise NotImplementedError(f"Resize of mode {mode}, {where}, is not implemented")
    factors = given[0].tolist()
    key = "size" if given[0] is sizes else "scale_factor"
    corners = {} if mode == "nearest" else {"align_corners": _SAMPLED[where]}
    return Operation(functional.interpolate, **{key: factors[2:]}, mode=modes[mode], **corners)
