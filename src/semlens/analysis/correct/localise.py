"""Where in its images an artefact lies: a soft mask from relevance of a concept vector.

Relevance starts at the layer with the dot product of activations and vector, and goes down to
the pixels; what is positive is blurred, amplified and normalised (paper, F.2.3; Reveal2Revise,
Pahde et al. 2023).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from semlens.analysis.correct.vector import ConceptVector
from semlens.errors import RelevanceError
from semlens.relevance.boxes import heatmaps
from semlens.relevance.flow import Flow
from semlens.relevance.interface import Traced, Tracer
from semlens.types import Readout

BLUR = 41 / 224
"""Width of the Gaussian kernel as a share of the input (paper, F.2.3: 41 at 224 pixels)."""
POWER = 0.6
"""To which the blurred relevance is taken, so that low values count more."""


def vector_start(trace: Traced, vector: ConceptVector, readout: Readout) -> Flow:
    """Start with the dot product of latent activations and direction.

    At every position of a map or row of tokens a channel's relevance is its activation times its
    part of the direction. If the readout is the class token's, only that token has a part.
    """
    value = trace.values[vector.layer].detach()
    weight = torch.from_numpy(vector.direction).to(value)
    form = trace.form(vector.layer)
    values = value.new_zeros(1, *value.shape)
    if form.form == "map":
        values += weight[:, None, None]
    elif form.form == "tokens" and readout == "cls":
        values[:, :, 0] = weight
    else:
        values += weight
    return Flow(values)


def vector_heat(
    engine: Tracer, inputs: Float[Tensor, "u 3 h w"], vector: ConceptVector, readout: Readout
) -> Float32[Tensor, "u h w"]:
    """Return the relevance of a concept vector by input pixel, summed over colours."""
    trace = engine.trace(inputs, [vector.layer])
    heat = trace.pull({vector.layer: vector_start(trace, vector, readout)}).heat
    if heat is None:
        raise RelevanceError(
            f"No relevance of layer '{vector.layer}' reaches the image.",
            "Expected a layer that depends on the pixels.",
            "Choose another layer.",
        )
    return heat[0].detach().float().cpu()


def soft_masks(heat: Float32[Tensor, "u h w"]) -> Float32[Tensor, "u h w"]:
    """Blur the positive part, take it to the power 0.6, and divide by each map's maximum.

    A map without a positive value stays zero.
    """
    smooth = heatmaps(heat, heat.shape[1], heat.shape[2], BLUR).clamp(min=0) ** POWER
    largest = smooth.amax((1, 2), keepdim=True)
    return smooth / torch.where(largest > 0, largest, 1)
