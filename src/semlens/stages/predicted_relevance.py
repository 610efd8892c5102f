"""Relevance of components for the class that the model predicts, by which samples can be ranked.

This is relevance maximisation (RelMax; Achtibat et al. 2023, "From attribution maps to
human-understandable explanations through Concept Relevance Propagation").
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.models.activations import LayerReadouts
from semlens.relevance.class_relevance import explain_batch, images_per_pass
from semlens.relevance.make_engine import EngineCache
from semlens.types import Signs


def predicted_relevance(
    engines: EngineCache,
    inputs: Float32[Tensor, "b 3 h w"],
    readouts: Mapping[str, LayerReadouts],
    signs: Signs,
) -> dict[str, Float32[Tensor, "2 b c"]]:
    """Return the relevance of each component on each sample, by layer, in units of the logit.

    Relevance is summed over space or tokens. The leading axis is the sign of the activation:
    relevance at positions where a channel is negative belongs to sign -1. If only positive signs
    count, sign +1 has all of it.

    A layer that the logits do not depend on has a relevance of zero. On a sample where some layer
    is NaN or infinite, all relevance is NaN.
    """
    peaks = (torch.isfinite(one.peak).all(dim=2).all(dim=0) for one in readouts.values())
    rows = torch.stack([*peaks]).all(dim=0).nonzero()[:, 0]
    relevance = {name: torch.full_like(one.peak, torch.nan) for name, one in readouts.items()}
    if not len(rows):
        return relevance
    engine = engines.engine(inputs, list(readouts))
    for chunk in rows.split(images_per_pass(engine)):
        _, explained = explain_batch(engine, inputs[chunk], list(readouts))
        for name, by_sign in relevance.items():
            found = explained.get(name)
            by_sign[:, chunk] = 0 if found is None else found.float().transpose(0, 1)
    if signs == "positive":
        for by_sign in relevance.values():
            by_sign[0] += by_sign[1]
    return relevance
