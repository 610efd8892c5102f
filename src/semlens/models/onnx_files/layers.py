"""Operators with weights, activations, reductions and attention."""

from __future__ import annotations

from collections.abc import Callable
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

Constants = Callable[..., Any]
"""From the index of an input, and a default, to its value, which is constant."""
Make = Callable[[OnnxNode, Constants], nn.Module]


def operator(known: set[str], *names: str, inputs: int = 1) -> Callable[[Make], Make]:
    """Register a function from a node, and a reader of its constant inputs, to a module.

    Parameters
    ----------
    known
        Receives the names of the operators.
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
            known.add(name)
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


LAYERS = set[str]()
"""Names of the operators that are converted here if their settings are constants."""


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


@operator(LAYERS, *_REDUCTIONS)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    axes = node.attributes.get("axes")
    given = constant(1) if axes is None else torch.tensor(axes)
    keepdim = bool(node.attributes.get("keepdims", 1))
    if given is None or not len(given):
        if node.attributes.get("noop_with_empty_axes", 0):
            return nn.Identity()
        raise NotImplementedError(f"{node.operation_type} over all axes is not implemented")
    return Operation(_REDUCTIONS[node.operation_type], dim=tuple(given.tolist()), keepdim=keepdim)


@operator(LAYERS, "GlobalMaxPool")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return nn.AdaptiveMaxPool2d(1)


@operator(LAYERS, "MatMul")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    weight, bias = constant(1), constant(2)
    module = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None)
    module.weight.data = weight.T.contiguous()
    if bias is not None:
        module.bias.data = bias
    return module


@operator(LAYERS, "Gelu")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return nn.GELU(node.attributes.get("approximate", "none"))


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@operator(LAYERS, "HardSigmoid")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-6:  # torch's, for which there are LRP rules
        return nn.Hardsigmoid()
    return Operation(_hard_sigmoid, alpha=alpha, beta=beta)


@operator(LAYERS, "Mish")
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


@operator(LAYERS, "Attention", inputs=0)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    supported = {"scale", "is_causal", "softmax_precision"}
    changed = {k for k, v in node.attributes.items() if v and k not in supported}
    if changed or len(node.input_values) > 4 or len(node.output_values) > 1:
        raise NotImplementedError(f"Attention with {', '.join(sorted(changed)) or 'a cache'}")
    causal = bool(node.attributes.get("is_causal", 0))
    return Operation(_attention, scale=node.attributes.get("scale"), is_causal=causal)


@operator(LAYERS, "GroupNormalization")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    weight, bias = constant(1), constant(2)
    groups, epsilon = node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)
    module = nn.GroupNorm(groups, len(weight), epsilon)
    module.weight.data, module.bias.data = weight, bias
    return module
