"""Operations that a captured graph has as one operator: constants, and nonnegative codes."""

from __future__ import annotations

import torch
from jaxtyping import Float
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


MAX_SWEEPS = 500
NNLS_TOLERANCE = 1e-6
"""A row has converged once no code changes by more than this share of its largest code."""


def _descend(products: Tensor, gram: Tensor, start: Tensor) -> Tensor:
    """Improve codes by coordinate descent until they have converged."""
    codes = start.clone()
    if not products.numel():
        return codes
    diagonal = gram.diagonal().clamp_min(1e-12)
    columns = gram.unbind(1)
    pending = torch.arange(len(products), device=products.device)
    for _ in range(MAX_SWEEPS):
        current, wanted = codes[pending].T.contiguous(), products[pending].T
        previous = current.clone()
        for k, column in enumerate(columns):
            step = (wanted[k] - column @ current) / diagonal[k]
            current[k] = (current[k] + step).clamp_min_(0)
        codes[pending] = current.T
        change = (current - previous).abs().amax(0)
        pending = pending[change > NNLS_TOLERANCE * current.amax(0)]
        if not len(pending):
            break
    return codes


@torch.library.custom_op("semlens::nonnegative_least_squares", mutates_args=())
def _solve(products: Tensor, gram: Tensor) -> Tensor:
    return _descend(products, gram, torch.zeros_like(products))


@_solve.register_fake
def _(products: Tensor, gram: Tensor) -> Tensor:
    return torch.empty_like(products)


def nonnegative_least_squares(
    x: Float[Tensor, "n c"], directions: Float[Tensor, "k c"]
) -> Float[Tensor, "n k"]:
    """Return the codes ``z >= 0`` that minimise ``|x - z directions|^2``, row by row.

    By cyclic coordinate descent (Cichocki & Phan 2009, HALS), each row until it has converged, so
    that the codes of a row do not depend on the others. It is one operator in a captured graph.
    """
    return _solve(x @ directions.T, directions @ directions.T)


def improved_codes(
    x: Float[Tensor, "n c"], directions: Float[Tensor, "k c"], start: Float[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Return the same codes, sooner, from a start near them."""
    return _descend(x @ directions.T, directions @ directions.T, start)
