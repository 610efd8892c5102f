"""Relevance of components for a class (paper, Section 4 and H.2; CRP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from semlens.errors import RelevanceError
from semlens.models.activations import flatten
from semlens.models.model_output import ModelOutput
from semlens.models.target import Target
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.output_leaves import is_output
from semlens.relevance.protocols import OUTPUT, ForwardTrace, RelevanceEngine, required


def class_seed(trace: ForwardTrace, targets: Int[Tensor, "n u"]) -> BackwardSignal:
    """Seed one logit per image and seed, with the logit itself as relevance.

    If the model ends in a softmax or sigmoid, relevance starts at the logits before it.

    Raises
    ------
    RelevanceError
        If the model has no logits, or a target is not one of them.
    """
    answer = required(trace.answer)
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= answer.count:
        raise RelevanceError(
            f"The target {low if low < 0 else high} is not a class of the model.",
            f"Expected a logit from 0 to {answer.count - 1}.",
            "Choose one of them.",
        )
    return BackwardSignal(answer.seed(trace.values[OUTPUT].detach(), targets))


@dataclass(frozen=True)
class Seed:
    """Where the relevance of a target starts.

    Parameters
    ----------
    value
        The target of each image [u].
    signals
        The gradient of the target, by the tensor of the output at which it starts [1 u ...].
    """

    value: Float[Tensor, " u"]
    signals: Mapping[str, BackwardSignal]


def target_seed(trace: ForwardTrace, target: Target) -> Seed:
    """Seed any target, with the tensors that it is read off times its gradient as relevance.

    For a class this is :func:`class_seed`.

    Raises
    ------
    RelevanceError
        If the output has no such target, or it does not depend on the image.
    """
    if target.reads_answer:
        required(trace.answer)
    elif trace.leaves is None:
        raise RelevanceError(
            f"The target '{target}' is read off the model's whole output.",
            "Expected an engine that keeps it.",
            "Make the engine with outputs=True.",
        )
    names = [name for name in trace.values if is_output(name)]
    names = [name for name in names if (name == OUTPUT) == target.reads_answer]
    with torch.enable_grad():
        starts = {name: trace.values[name].detach().requires_grad_() for name in names}
        count = len(trace.inputs)
        result = None if trace.leaves is None else trace.leaves.rebuilt(starts, count)
        size = (trace.inputs.shape[-2], trace.inputs.shape[-1])
        value = target.value(ModelOutput(result, trace.answer, starts.get(OUTPUT), size))
        if not value.requires_grad or value.shape != (count,):
            raise RelevanceError(
                f"The target '{target}' has the shape {list(value.shape)} for {count} images"
                f"{'' if value.requires_grad else ', and does not depend on the output'}.",
                "Expected a value for each image that can be differentiated.",
                "Choose another target.",
            )
        gradients: Any = torch.autograd.grad(value.sum(), [*starts.values()], allow_unused=True)
        signals = {
            name: BackwardSignal(gradient[None])
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        }
    return Seed(value.detach(), signals)


def seed_signals(
    trace: ForwardTrace, targets: Int[Tensor, " u"] | Target
) -> Mapping[str, BackwardSignal]:
    """Return where relevance starts: at a class of each image, or at one target of all."""
    if isinstance(targets, Target):
        return target_seed(trace, targets).signals
    return {OUTPUT: class_seed(trace, targets[None])}


def predicted_targets(trace: ForwardTrace) -> Int64[Tensor, " u"]:
    """Return the class that the model predicts for each image; of a single value, that value.

    Raises
    ------
    ModelError
        If the model answers with several values, or an embedding.
    RelevanceError
        If it has no answer.
    """
    answer = required(trace.answer)
    if answer.count == 1:
        return torch.zeros(len(trace.inputs), dtype=torch.int64)
    return answer.predicted(trace.logits).cpu()


def component_relevance(
    trace: ForwardTrace, layer: str, signal: Float[Tensor, "n u ..."]
) -> Float[Tensor, "n u 2 c"]:
    """Sum the relevance of a layer over space or tokens, for either sign of each component.

    Relevance at positions where the channel is negative counts for the component of sign -1.
    """
    layout = trace.layout(layer)
    activation = flatten(layout, trace.values[layer])
    flat_signal = torch.stack([flatten(layout, seed_signal) for seed_signal in signal])
    product = activation * flat_signal
    positive = torch.where(activation >= 0, product, 0).sum(-1)
    return torch.stack([positive, product.sum(-1) - positive], dim=2)


def class_relevance(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u channels h w"],
    targets: Int[Tensor, " u"] | Target,
    layers: Sequence[str] | None = None,
) -> Mapping[str, Float[Tensor, "u c"]]:
    """Return the relevance of every channel for one class per image.

    Parameters
    ----------
    targets
        Logit of each image, or one target of all.

    Returns
    -------
    Mapping
        By layer, relevance summed over space, in units of the logit or target.
    """
    names = list(engine.layers if layers is None else layers)
    batch_size = images_per_pass(engine)
    batches: list[Mapping[str, Tensor]] = []
    for first in range(0, len(inputs), batch_size):
        chunk = slice(first, first + batch_size)
        of_chunk = targets if isinstance(targets, Target) else targets[chunk]
        by_sign = component_signs(engine.trace(inputs[chunk]), names, of_chunk)
        batches.append({name: relevance.sum(1) for name, relevance in by_sign.items()})
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def explain_batch(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u channels h w"],
    layers: Sequence[str],
    targets: Int[Tensor, " u"] | None = None,
) -> tuple[Int[Tensor, " u"], Mapping[str, Float[Tensor, "u 2 c"]]]:
    """Return the relevance of all components for one class per image, in a single pass.

    Parameters
    ----------
    targets
        Logit of each image; by default that of the class that the model predicts.

    Returns
    -------
    tuple
        The targets, and by layer the relevance for either sign of each component (see
        :func:`component_relevance`). Layers that the logits do not depend on are left out.
    """
    trace = engine.trace(inputs)
    if targets is None:
        targets = predicted_targets(trace)
    return targets, component_signs(trace, layers, targets)


def component_signs(
    trace: ForwardTrace, layers: Sequence[str], targets: Int[Tensor, " u"] | Target
) -> Mapping[str, Float[Tensor, "u 2 c"]]:
    """Return the relevance for either sign of each component, by layer that it reaches."""
    result = trace.backward(seed_signals(trace, targets), layers, heatmaps=False)
    return {
        name: component_relevance(trace, name, signal)[0] for name, signal in result.layers.items()
    }


def images_per_pass(engine: RelevanceEngine) -> int:
    """Choose how many images to trace together from the memory that a backward pass needs.

    This is about twice the values of the forward pass; the budget is half a GiB on a CPU and a
    quarter of the free memory on a GPU.
    """
    return int(
        min(max(engine.memory_budget(1 / 4, 2.0**29) / (2 * engine.bytes_per_image), 1), 1024)
    )


def shares(relevance: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
    """Divide by the layer's total of absolute values, as CRP does (Achtibat et al. 2023).

    The paper does not state the base of its percentages; this one stays meaningful if relevance
    of both signs cancels. Shares lie in [-1, 1]; they are zero if no relevance reaches the layer.
    """
    total = relevance.abs().sum(-1, keepdim=True)
    return torch.where(total > 0, relevance / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
