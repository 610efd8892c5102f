"""An operator that marks a value as a constant for relevance and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

OPERATOR = "semlens.as_constant"
"""Its name in a captured graph."""


@torch.library.custom_op("semlens::as_constant", mutates_args=())
def _as_constant(value: Tensor) -> Tensor:
    return value.clone()


@_as_constant.register_fake
def _(value: Tensor) -> Tensor:
    return torch.empty_like(value)


def as_constant(value: Tensor) -> Tensor:
    """Return the value; neither gradients nor relevance pass through it.

    ``detach`` alone does not do this in a captured graph, where it is an alias.
    """
    return _as_constant(value.detach())
