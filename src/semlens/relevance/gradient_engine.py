"""Gradient times input: the fallback for models that the LRP rules do not cover.

It works for any differentiable model, but it is noisier than LRP and does not conserve relevance.
Its rules are named ``gradient``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from semlens.errors import RelevanceError
from semlens.models.ablation import replace_first_tensor
from semlens.models.activations import first_tensor, measure_layout, zero_channels
from semlens.models.axes import find_axes
from semlens.models.forward import class_scores
from semlens.models.hooks import evaluating, reading_layers
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import prepare_inputs
from semlens.relevance.presets import GRADIENT, Rules
from semlens.relevance.protocols import (
    NO_CHANNELS,
    OUTPUT,
    BackwardResult,
    ChannelsByLayer,
    ForwardTrace,
    RelevanceEngine,
    check_finite,
)
from semlens.relevance.rules.base import Rule
from semlens.types import Layout


class GradientEngine(RelevanceEngine):
    """A model prepared for gradient times input at some layers.

    Parameters
    ----------
    module
        Any differentiable model; it is not changed.
    example
        float[b 3 h w].
    layers
        Layers at which relevance is seeded or read.
    """

    def __init__(
        self,
        module: nn.Module,
        example: Tensor,
        layers: Sequence[str],
        layout: Layout = "auto",
    ) -> None:
        super().__init__(module)
        batch = prepare_inputs(example[:1], self.module)
        self.axes = find_axes(self.module, batch[:1], list(layers), layout)
        self.rules = Rules(GRADIENT)
        self.layers = list(layers)
        trace = self.trace(example[:1])
        for name, value in trace.values.items():
            # requires_grad alone is not enough: operators without a derivative may keep it
            if not _reaches(value, trace.inputs):
                raise self._without_gradient(name)
        self.layers = [name for name in trace.values if name != OUTPUT]  # in execution order
        self._bytes = 4 * max(value.numel() for value in (trace.inputs, *trace.values.values()))

    def _without_gradient(self, name: str) -> RelevanceError:
        return RelevanceError(
            f"No gradient reaches '{name or 'the output'}' of {type(self.module).__name__}.",
            "Expected a differentiable model; quantised layers have no gradient.",
            "Use the model before quantisation, or crop='activation'.",
        )

    @property
    def bytes_per_image(self) -> int:
        """Approximate bytes per image of all values of a forward pass, from those of the layers."""
        return 50 * self._bytes

    def largest_value_bytes(self, layer: str = OUTPUT) -> int:
        """Return the bytes per image of the largest of the layers' values."""
        return self._bytes

    def trace(
        self,
        inputs: Tensor,
        upto: Sequence[str] = (OUTPUT,),
        *,
        keep_all: bool = False,
        without: ChannelsByLayer = NO_CHANNELS,
    ) -> GradientTrace:
        """Run the model over images, without some channels, and record the graph of gradients.

        Raises
        ------
        RelevanceError
            If the model cannot be differentiated, or a value is not finite.
        """
        inputs = prepare_inputs(inputs, self.module).detach().requires_grad_()
        values: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> Any:
            values[name] = value = first_tensor(output)
            if name in without:
                layout = measure_layout(name, value, self.axes.get(name))
                values[name] = zero_channels(layout, value, without[name])
            # the model continues with a copy, which it may overwrite
            return replace_first_tensor(output, values[name].clone())

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
        return GradientTrace(inputs, values, self.axes, {})


@dataclass(frozen=True)
class GradientTrace(ForwardTrace):
    """A forward pass over U images with PyTorch's graph of gradients."""

    def backward(
        self,
        seeds: Mapping[str, BackwardSignal],
        record: Collection[str] = (),
        *,
        heatmaps: bool = True,
        on_rule: Callable[[Rule, BackwardSignal], None] = lambda *_: None,
    ) -> BackwardResult:
        """Propagate gradients; the heatmaps are gradient times pixel."""
        outputs = [self.values[name] for name in seeds]
        signals = [
            signal.full_map((self.values[name].shape[-2], self.values[name].shape[-1])).values
            for name, signal in seeds.items()
        ]
        sources = [self.values[name] for name in record] + ([self.inputs] if heatmaps else [])
        gradients: Any = torch.autograd.grad(
            outputs, sources, signals, is_grads_batched=True, retain_graph=True, allow_unused=True
        )
        complete = [
            gradient if gradient is not None else value.new_zeros(len(signals[0]), *value.shape)
            for gradient, value in zip(
                cast("Sequence[Tensor | None]", gradients), sources, strict=True
            )
        ]
        pixels = (complete.pop() * self.inputs.detach()).sum(2) if heatmaps else None
        return BackwardResult(pixels, dict(zip(record, complete, strict=True)))


def _reaches(value: Tensor, inputs: Tensor) -> bool:
    """Whether a value has a gradient with respect to the inputs."""
    with warnings.catch_warnings(action="ignore"):  # from operators without a derivative
        try:
            gradients: Any = torch.autograd.grad(
                value.sum(), [inputs], retain_graph=True, allow_unused=True
            )
        except RuntimeError:
            return False
    return gradients[0] is not None
