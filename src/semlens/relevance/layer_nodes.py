"""Finding the nodes of layers in a captured graph.

A layer's name does not determine which operation ends it (a shortcut may be added in place, or a
tuple returned), but its value does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from semlens.errors import ModelError, RelevanceError
from semlens.models.activations import first_tensor
from semlens.models.answer import Answer
from semlens.models.hooks import evaluating, run_layers
from semlens.relevance.captured_graph import REMEDY, CapturedGraph, OpNode, relevance_errors
from semlens.relevance.protocols import OUTPUT, check_finite


def layer_nodes(
    graph: CapturedGraph, module: nn.Module, example: Tensor, expected_values: Mapping[str, Tensor]
) -> dict[str, OpNode]:
    """Find the nodes of some layers and of the output by running the graph once.

    Parameters
    ----------
    expected_values
        Values of the layers, from :func:`layer_values`.

    Raises
    ------
    RelevanceError
        If the graph has no such value, because the model behaves differently when traced, or if it
        only supports one batch size.
    """
    nodes: dict[str, OpNode] = {}

    def match(node: OpNode, value: Any) -> None:
        for name, expected in expected_values.items():
            # the last such node inside the layer, otherwise the first one anywhere
            if (name in node.scopes or name not in nodes) and same_values(value, expected):
                nodes[name] = node

    # a pass traced with one image has fixed shapes
    with relevance_errors(
        f"The captured pass of {type(module).__name__} fails with {len(example)} images",
        "Expected a forward pass that reads its batch size from x.shape[0].",
    ), torch.no_grad():  # fmt: skip
        graph.run(example, graph.terminal_nodes(), match)
    for name in expected_values:
        if name not in nodes:
            raise value_mismatch(module, name)
    return nodes


def value_mismatch(module: nn.Module, name: str) -> RelevanceError:
    """Return the error for a captured pass whose values differ from the model's."""
    return RelevanceError(
        f"The captured pass of {type(module).__name__} differs from the model at "
        f"'{name or 'the output'}'.",
        "Expected the same values as when the model runs, and a layer that its output depends on.",
        REMEDY,
    )


def layer_values(
    module: nn.Module, example: Tensor, layers: Sequence[str], answer: Answer | ModelError
) -> dict[str, Tensor]:
    """Run the model and return the values of some layers, and the raw ones of its answer, if any.

    Raises
    ------
    LayerError
        If the model has no such layer, or runs it twice.
    RelevanceError
        If a value is not finite.
    """
    # cloned, since a later operation may overwrite the tensor
    values = run_layers(module, example, layers, lambda _, out: first_tensor(out).clone())
    if not isinstance(answer, ModelError):
        with evaluating(module), torch.no_grad(), answer.reading() as read:
            values[OUTPUT] = read(module(example))
    check_finite(values)
    return values


def same_values(value: Any, expected: Tensor) -> bool:
    """Whether a value is a tensor that agrees with ``expected`` up to rounding."""
    if not isinstance(value, Tensor) or value.shape != expected.shape or value.dtype == torch.bool:
        return False
    scale = float(expected.abs().max())
    return bool((value - expected).abs().max() <= 1e-3 * scale + 1e-9)
