"""From the vectors of examples to one vector: the aggregates of a concept vector (Eq. 2)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from semlens.types import Aggregate


def aggregate_vectors(
    vectors: Float32[Tensor, "c m d"],
    used: Bool[Tensor, "c m"],
    strength: Float32[Tensor, "c m"] | None,
    aggregate: Aggregate,
) -> Float32[Tensor, "c d"]:
    """Aggregate the unit vectors of each component's used examples; zeros if it has none.

    ``mean`` is the paper's Eq. 2; ``median`` and ``weighted`` (see :func:`example_weights`) are
    mentioned there as future work.

    Parameters
    ----------
    strength
        Readouts in the direction of the component's sign, for ``weighted``.
    """
    if aggregate == "median":
        filled = torch.where(used[..., None], vectors, torch.nan)
        return torch.from_numpy(_nanmedian(filled.numpy()))
    weight = example_weights(used, strength if aggregate == "weighted" else None)
    return torch.einsum("cm,cmd->cd", weight.float(), vectors)


def example_weights(
    used: Bool[Tensor, "c m"], strength: Float32[Tensor, "c m"] | None
) -> Float64[Tensor, "c m"]:
    """Return the weights of each component's examples, with sum 1; zeros if it has none.

    Without ``strength`` they are equal. Otherwise they are proportional to the readout in the
    direction of the sign, minus the smallest used readout if that is negative, so that weights
    never increase as readouts fall. If this gives only zeros, the weights are equal.
    """
    weight = equal = used.double()
    if strength is not None:
        value = torch.where(used, strength.double(), torch.inf)
        lowest = value.amin(1, keepdim=True).clamp(max=0)
        weight = torch.where(used, value - lowest, 0)
        weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, equal)
    return weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Return the median over axis 1 of [c m d], ignoring NaN; zeros for rows of NaN only."""
    empty = np.isnan(values[:, :, 0]).all(axis=1, keepdims=True)
    filled = np.where(np.expand_dims(empty, 2), 0.0, values)
    return np.nanmedian(filled, axis=1).astype(np.float32)
