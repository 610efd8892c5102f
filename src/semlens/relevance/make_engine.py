"""Choosing the relevance engine of a model: LRP rules that conserve, or gradient times input.

The latter works for any differentiable model, but it is noisier than LRP and does not conserve
relevance. Its rules are named ``gradient``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from semlens.errors import ModelError, RelevanceError
from semlens.models.ablation import replace_first_tensor
from semlens.models.activations import (
    first_tensor,
    measure_layout,
    zero_channels,
)
from semlens.models.answer import Answer
from semlens.models.axes import find_axes
from semlens.models.hooks import evaluating, reading_layers
from semlens.models.model_output import reading_output
from semlens.models.subject import SubjectModel
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import prepare_inputs
from semlens.relevance.conservation import BIAS, check_conservation, conserved_shares
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.output_leaves import LEAF, OutputLeaves, is_output
from semlens.relevance.presets import GRADIENT, Rules
from semlens.relevance.protocols import (
    NO_CHANNELS,
    OUTPUT,
    BackwardResult,
    ChannelsByLayer,
    ForwardTrace,
    RelevanceEngine,
    check_finite,
    map_size,
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
        answer: Answer | ModelError | None = None,
        *,
        outputs: bool = False,
    ) -> None:
        super().__init__(module, example, answer, outputs=outputs)
        batch = prepare_inputs(example[:1], self.module)
        self.axes = find_axes(self.module, batch[:1], list(layers), layout)
        self.rules = Rules(GRADIENT)
        self.layers = list(layers)
        trace = self.trace(example[:1])
        for name, value in trace.values.items():
            # requires_grad alone is not enough: operators without a derivative may keep it
            if not (name.startswith(LEAF) or _reaches(value, trace.inputs)):
                raise self._without_gradient(name)
        self.layers = [name for name in trace.values if not is_output(name)]  # in execution order
        self.ends = tuple(name for name in trace.values if is_output(name))
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
        upto: Sequence[str] | None = None,
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
            with reading_output(self.answer, map_size(inputs.shape)) as read:
                output = read(self.module(inputs))
            if output.raw is not None:
                values[OUTPUT] = output.raw
            leaves = OutputLeaves.of(output.result) if self.outputs else None
            if leaves is not None:
                values |= {name: v for name, v in leaves.tensors.items() if v.requires_grad}
        for name, value in values.items():
            if not value.requires_grad:
                raise self._without_gradient(name)
        check_finite({name: value.detach() for name, value in values.items()})
        return GradientTrace(inputs, values, self.axes, self.answer, {}, leaves)


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
            signal.full_map(map_size(self.values[name].shape)).values
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


CONSERVED_RANGE = (0.5, 1.5)
"""Range of the share of a logit that should reach the pixels."""
MIN_CONSERVED_IMAGES = 0.75
"""Share of the images on which a later preset must conserve to be preferred."""


class FallbackWarning(UserWarning):
    """Relevance is gradient times input, because the LRP rules do not cover the model."""


class ConservationWarning(UserWarning):
    """Much less, or much more, than a logit reaches what is read."""


def make_engine(
    module: nn.Module,
    example: Tensor,
    layers: Sequence[str],
    rules: str | Rules = "auto",
    layout: Layout = "auto",
    answer: Answer | ModelError | None = None,
    *,
    outputs: bool = False,
    heatmaps: bool = True,
) -> RelevanceEngine:
    """Return a module's relevance engine for images of the size of ``example``.

    Parameters
    ----------
    example
        float[b 3 h w]. Conservation is measured on it.
    rules
        A preset, custom rules, ``gradient``, or ``auto``: the first preset for the kind of model
        (:data:`~semlens.relevance.presets.AUTO`), unless it does not conserve on the median image
        and a later one does on three quarters of the images. For a model that the rules do not
        cover, ``auto`` uses ``gradient`` and issues a :class:`FallbackWarning`. A
        :class:`ConservationWarning` is issued if the rules do not conserve.
    layout
        Order of the axes of maps, for layers where it cannot be detected.
    answer
        What the model answers with, or why it has no answer; by default it is measured.
    outputs
        Whether passes keep all tensors of the output, for targets such as a box or a region.
    heatmaps
        Whether pixels will be read; otherwise the warning is about what reaches the layers.

    Raises
    ------
    RelevanceError
        If rules were named and do not cover the model's operations.
    """
    if rules in (GRADIENT, Rules(GRADIENT)):
        return GradientEngine(module, example, layers, layout, answer, outputs=outputs)
    try:
        engine = LRPEngine(module, example[:2], layers, rules, layout, answer, outputs=outputs)
    except RelevanceError as error:
        if rules != "auto":
            raise
        warnings.warn(
            f"{error.value} Relevance is gradient times input instead, which is noisier and "
            "does not conserve.",
            FallbackWarning,
            stacklevel=2,
        )
        return GradientEngine(module, example, layers, layout, answer, outputs=outputs)
    share = float(np.median(conserved_shares(engine, example)))
    for name in engine.auto_presets[1:] if rules == "auto" else ():
        if _conserves(share):
            break
        candidate = engine.with_rules(name)
        candidate_shares = conserved_shares(candidate, example)
        # a mean near 1 may hide shares far below and above it
        if (
            np.mean([_conserves(float(value)) for value in candidate_shares])
            >= MIN_CONSERVED_IMAGES
        ):
            engine, share = candidate, float(np.median(candidate_shares))
    warn_of_losses(engine, example, heatmaps=heatmaps)
    return engine


def warn_of_losses(engine: RelevanceEngine, example: Tensor, *, heatmaps: bool) -> None:
    """Issue a :class:`ConservationWarning` unless relevance reaches what is read of it.

    Parameters
    ----------
    example
        float[b 3 h w].
    heatmaps
        Whether the pixels are read; otherwise what is absorbed below the layers does not matter.
    """
    kept = float(np.median(conserved_shares(engine, example)))
    if _conserves(kept) or not isinstance(engine, LRPEngine):
        return
    account = check_conservation(engine, example)
    start, nonzero = account.start, account.start != 0
    biases, before = (
        float(np.median(absorbed[nonzero] / start[nonzero]))
        for absorbed in (account.absorbed[BIAS], account.before_layers)
    )
    kept = kept if heatmaps else 1 - before
    if _conserves(kept):
        return
    # what biases hold of a logit belongs to no pixel: it is not lost on the way
    held = heatmaps and min(kept, biases) >= 0 and _conserves(kept + biases)
    verdict = (
        "No pixel has this part, and no other is lost: heatmaps show the rest of the logit"
        if held
        else "Heatmaps and relevance may mislead"
    )
    warnings.warn(
        f"With rules '{engine.rules.name}' {kept:.2f} of a logit reaches the "
        f"{'pixels' if heatmaps else 'layers'}; 1 is expected. "
        f"{account.largest_loss}{' ' if account.largest_loss else ''}{verdict}; "
        "semlens.check_conservation shows what absorbs it.",
        ConservationWarning,
        stacklevel=3,
    )


def _conserves(share: float) -> bool:
    return bool(CONSERVED_RANGE[0] <= share <= CONSERVED_RANGE[1])


def engine_for(
    model: SubjectModel,
    layers: Sequence[str],
    rules: str | Rules = "auto",
    size: Sequence[int] | None = None,
    *,
    classes: bool = False,
    outputs: bool = False,
    heatmaps: bool = True,
) -> RelevanceEngine:
    """Return a subject model's relevance engine, with rules that do not depend on the images.

    Parameters
    ----------
    rules
        As for :func:`make_engine`; ``auto`` is decided on the model's example pictures.
    size
        Height and width of the inputs; by default those of the example pictures.
    classes
        Whether relevance will be seeded at classes, which requires a model with logits.
    outputs
        Whether it will be seeded at targets that are read off other tensors of the output.
    heatmaps
        Whether pixels will be read, or the layers alone, see :func:`make_engine`.

    Raises
    ------
    ModelError
        If ``classes`` is true and the model returns no logits, such as a detector.
    RelevanceError
        As for :func:`make_engine`.
    """
    example = example_images(model, size)
    answer = model.answer if classes else model.answer_error or model.answer
    return make_engine(
        model.module, example, layers, rules, model.layout, answer, outputs=outputs,
        heatmaps=heatmaps,
    )  # fmt: skip


def example_images(
    model: SubjectModel, size: Sequence[int] | None
) -> Float[Tensor, "8 channels h w"]:
    """Return the model's example pictures, preprocessed, in another size if one is given."""
    example = model.example
    if size is not None and tuple(size) != example.shape[-2:]:
        example = functional.interpolate(example, tuple(size))
    return example


class EngineCache:
    """The relevance engines of a model, made on first use.

    Parameters
    ----------
    model
        The subject.
    rules, heatmaps
        As for :func:`make_engine`.
    """

    def __init__(self, model: SubjectModel, rules: str, *, heatmaps: bool = True) -> None:
        self._model = model
        self._rules = rules
        self._heatmaps = heatmaps
        self._engines: dict[tuple[tuple[str, ...], torch.Size], RelevanceEngine] = {}

    def engine(self, inputs: Tensor, layers: Sequence[str]) -> RelevanceEngine:
        """Return the engine for some layers and images of the size of ``inputs``."""
        key = (tuple(layers), inputs.shape[-2:])
        if key not in self._engines:
            self._engines[key] = engine_for(
                self._model, layers, self._rules, key[1], heatmaps=self._heatmaps
            )
        return self._engines[key]

    def is_exact(self, layers: Sequence[str]) -> bool:
        """Whether the LRP rules, not the fallback, are used for these layers."""
        return self.rules_name(layers) != GRADIENT

    def rules_name(self, layers: Sequence[str]) -> str:
        """Return the name of the rules used for these layers."""
        cached = [engine for (names, _), engine in self._engines.items() if names == tuple(layers)]
        return (cached or [self.engine(self._model.example, layers)])[0].rules.name
