"""Operators that are converted here.

onnx2torch lacks them, or converts them to modules that read their settings from tensors, which
cannot be captured for relevance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx2torch.node_converters.registry import add_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult, get_const_value
from torch import Tensor, nn

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
