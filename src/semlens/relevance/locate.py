"""Which node of a captured graph is the output of a named layer: the one with its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from semlens.errors import RelevanceError
from semlens.models.activations import first_tensor
from semlens.models.forward import class_scores
from semlens.models.taps import evaluating, run_layers
from semlens.relevance.graph import REMEDY, Graph, Node, refusing
from semlens.relevance.interface import OUTPUT, check_finite


def locate(
    graph: Graph, module: nn.Module, example: Tensor, wanted: Mapping[str, Tensor]
) -> dict[str, Node]:
    """Find the nodes of some layers and of the output, by running model and graph once.

    A layer's name does not say which operation ends it (a shortcut may be added in place, a
    tuple returned), but its value does.

    Parameters
    ----------
    wanted
        What :func:`layer_values` gives.

    Raises
    ------
    RelevanceError
        If the graph has no such value: the pass does something else when it is traced; or
        if it holds for one batch size only, or a value is not finite.
    """
    found: dict[str, Node] = {}

    def seen(node: Node, value: Any) -> None:
        for name, expected in wanted.items():
            if not (isinstance(value, Tensor) and value.shape == expected.shape):
                continue
            within = name in node.scopes
            known = found.get(name)
            # the last such node inside the layer; else the first one anywhere
            if (within or known is None) and same_values(value, expected):
                found[name] = node

    # a pass that was traced at one image has fixed its shapes
    with refusing(
        f"The captured pass of {type(module).__name__} fails at {len(example)} images",
        "Expected a forward pass that takes its batch size from x.shape[0].",
    ), torch.no_grad():  # fmt: skip
        graph.run(example, graph.ends(), seen)
    for name in wanted:
        if name not in found:
            raise another_value(module, name)
    return found


def another_value(module: nn.Module, name: str) -> RelevanceError:
    """Return the error for a captured pass that computes something else than the model."""
    return RelevanceError(
        f"The captured pass of {type(module).__name__} has another value at "
        f"'{name or 'the output'}'.",
        "Expected the same numbers as when the model runs.",
        REMEDY,
    )


def layer_values(module: nn.Module, example: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Run the model and return the values of some layers, and of the output.

    Raises
    ------
    LayerError
        If the model has no such layer, or runs it twice.
    RelevanceError
        If a value is not finite.
    """
    # a copy: a later operation may overwrite the tensor
    wanted = run_layers(module, example, layers, lambda _, out: first_tensor(out).clone())
    with evaluating(module), torch.no_grad():
        scores = class_scores(module(example))
    if scores is not None:
        wanted[OUTPUT] = scores
    check_finite(wanted)
    return wanted


def same_values(value: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree up to rounding."""
    scale = float(expected.abs().max())
    return bool((value - expected).abs().max() <= 1e-3 * scale + 1e-9)
