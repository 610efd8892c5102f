"""Gradient times input: the fallback for models that no rule set covers.

It works for whatever PyTorch can differentiate. It is not conservative and noisier than LRP,
and says what it is: its rules have the name ``gradient``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from semlens.errors import RelevanceError
from semlens.models.activations import first_tensor
from semlens.models.channel_order import find_layouts
from semlens.models.forward import class_scores
from semlens.models.hooks import evaluating, reading_layers, replace_first
from semlens.relevance.captured_graph import prepared
from semlens.relevance.presets import GRADIENT, Rules
from semlens.relevance.protocols import (
    OUTPUT,
    BackwardResult,
    ForwardTrace,
    RelevanceEngine,
    check_finite,
)
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.relevance.rules.base import Rule
from semlens.types import Layout


class GradientEngine(RelevanceEngine):
    """A model, ready for gradient times input at some layers.

    Parameters
    ----------
    module
        Any model that can be differentiated; it is not changed.
    example
        float[b 3 h w].
    layers
        Where relevance starts, is read, or both.
    """

    def __init__(
        self,
        module: nn.Module,
        example: Tensor,
        layers: Sequence[str],
        layout: Layout = "auto",
    ) -> None:
        super().__init__(module)
        batch = prepared(example[:1], self.module)
        self.layouts = find_layouts(self.module, batch, list(layers), layout)
        self.rules = Rules(GRADIENT)
        self.layers = list(layers)
        found = self.trace(example[:1])
        for name, value in found.values.items():
            # operators without a derivative may let a value pass as one that has it
            if not _reaches(value, found.inputs):
                raise self._without_gradient(name)
        self.layers = [name for name in found.values if name != OUTPUT]  # as they have run
        self._bytes = 4 * max(value.numel() for value in (found.inputs, *found.values.values()))

    def _without_gradient(self, name: str) -> RelevanceError:
        return RelevanceError(
            f"No gradient reaches '{name or 'the output'}' of {type(self.module).__name__}.",
            "Expected a model that can be differentiated; quantised layers cannot.",
            "Use the model before quantisation, or crop='activation'.",
        )

    @property
    def total(self) -> int:
        """Bytes per image of all values of a forward pass, about: only the layers' are known."""
        return 50 * self._bytes

    def largest(self, layer: str = OUTPUT) -> int:
        """Return the bytes per image of the largest of the layers' values."""
        return self._bytes

    def trace(
        self, inputs: Tensor, upto: Sequence[str] = (OUTPUT,), *, keep_all: bool = False
    ) -> GradientTrace:
        """Run the model over images, with a way back.

        Raises
        ------
        RelevanceError
            If the model cannot be differentiated, or a value is not finite.
        """
        inputs = prepared(inputs, self.module).detach().requires_grad_()
        values: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> Any:
            values[name] = first_tensor(output)
            # the model goes on with a copy, which it may overwrite
            return replace_first(output, values[name].clone())

        with (
            torch.enable_grad(),
            evaluating(self.module),
            reading_layers(self.module, self.layers, keep),
        ):
            scores = class_scores(self.module(inputs))
        if scores is not None:
            values[OUTPUT] = scores
        for name, value in values.items():
            if not value.requires_grad:
                raise self._without_gradient(name)
        check_finite({name: value.detach() for name, value in values.items()})
        return GradientTrace(inputs, values, self.layouts, {})


@dataclass(frozen=True)
class GradientTrace(ForwardTrace):
    """A forward pass over U images with PyTorch's own way back."""

    def pull(
        self,
        starts: Mapping[str, RelevanceSignal],
        record: Collection[str] = (),
        *,
        heat: bool = True,
        seen: Callable[[Rule, RelevanceSignal], None] = lambda *_: None,
    ) -> BackwardResult:
        """Propagate gradients; ``heat`` is the gradient times the pixel."""
        outputs = [self.values[name] for name in starts]
        flows = [
            flow.whole((self.values[name].shape[-2], self.values[name].shape[-1])).values
            for name, flow in starts.items()
        ]
        wanted = [self.values[name] for name in record] + ([self.inputs] if heat else [])
        found: Any = torch.autograd.grad(
            outputs, wanted, flows, is_grads_batched=True, retain_graph=True, allow_unused=True
        )
        whole = [
            g if g is not None else value.new_zeros(len(flows[0]), *value.shape)
            for g, value in zip(cast("Sequence[Tensor | None]", found), wanted, strict=True)
        ]
        pixels = (whole.pop() * self.inputs.detach()).sum(2) if heat else None
        return BackwardResult(pixels, dict(zip(record, whole, strict=True)))


def _reaches(value: Tensor, inputs: Tensor) -> bool:
    """Whether a value has a derivative with respect to the inputs."""
    with warnings.catch_warnings(action="ignore"):  # of operators that have none
        try:
            found: Any = torch.autograd.grad(
                value.sum(), [inputs], retain_graph=True, allow_unused=True
            )
        except RuntimeError:
            return False
    return found[0] is not None
