"""How much each component matters for a class (paper, Section 4 and H.2; CRP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from semlens.errors import RelevanceError
from semlens.models.activations import flatten
from semlens.relevance.protocols import OUTPUT, ForwardTrace, RelevanceEngine, no_logits
from semlens.relevance.relevance_signal import RelevanceSignal


def class_seed(trace: ForwardTrace, targets: Int[Tensor, "n u"]) -> RelevanceSignal:
    """Start at one logit per image and start, with the logit itself as relevance.

    Raises
    ------
    RelevanceError
        If the model has no logits, or a target is not one of them.
    """
    scores = trace.values.get(OUTPUT)
    if scores is None or scores.ndim != 2:
        raise no_logits(scores)
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= scores.shape[1]:
        raise RelevanceError(
            f"The target {low if low < 0 else high} is not a class of the model.",
            f"Expected a logit from 0 to {scores.shape[1] - 1}.",
            "Choose one of them.",
        )
    values = scores.detach().new_zeros(len(targets), *scores.shape)
    return RelevanceSignal(values.scatter_(2, targets.to(values.device).long()[..., None], 1.0))


def component_relevance(
    trace: ForwardTrace, layer: str, flow: Float[Tensor, "n u ..."]
) -> Float[Tensor, "n u 2 c"]:
    """Sum what reached a layer over space or tokens, for either sign of each component.

    Relevance at positions where the channel is negative belongs to the component of sign -1.
    """
    form = trace.form(layer)
    activation = flatten(form, trace.values[layer])
    passed = torch.stack([flatten(form, part) for part in flow])
    product = activation * passed
    positive = torch.where(activation >= 0, product, 0).sum(-1)
    return torch.stack([positive, product.sum(-1) - positive], dim=2)


def class_relevance(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u 3 h w"],
    targets: Int[Tensor, " u"],
    layers: Sequence[str] | None = None,
) -> Mapping[str, Float[Tensor, "u c"]]:
    """Return the relevance of every channel for one class per image, in one backward pass.

    Parameters
    ----------
    targets
        Logit of each image.

    Returns
    -------
    Mapping
        By layer, relevance summed over space, in units of the logit.
    """
    names = list(engine.layers if layers is None else layers)
    step = images_per_pass(engine)
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, len(inputs), step):
        trace = engine.trace(inputs[start : start + step])
        begin = class_seed(trace, targets[None, start : start + step])
        pulled = trace.pull({OUTPUT: begin}, names, heat=False)
        parts.append(
            {
                name: component_relevance(trace, name, passed)[0].sum(1)
                for name, passed in pulled.layers.items()
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def images_per_pass(engine: RelevanceEngine) -> int:
    """Choose how many images are traced at once: what a backward pass needs of them is kept.

    That is about twice the values of the forward pass: half a GiB of it on a CPU, a quarter of the
    free memory on a GPU.
    """
    return int(min(max(engine.memory(1 / 4, 2.0**29) / (2 * engine.total), 1), 1024))


def shares(relevance: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
    """Divide by the layer's total of absolute values, as CRP does (Achtibat et al. 2023).

    The paper gives percentages without their base; this one stays meaningful when relevance
    of both signs cancels. Shares lie in [-1, 1]; a layer that nothing reaches has zeros.
    """
    total = relevance.abs().sum(-1, keepdim=True)
    return torch.where(total > 0, relevance / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
