"""Operations that a captured graph has as one operator: constants, and nonnegative codes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.optimize import nnls
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


SWEEPS = 20
"""Of coordinate descent, which finds most of the codes that are not zero."""
PIVOTS = 60
"""Exchanges of codes that are zero with others, after which a row is solved by SciPy."""
PATIENCE = 3
"""Exchanges of all wrong codes that may be no better, before a single one is exchanged."""
RIDGE = 1e-14
"""Added to the squared lengths of directions, so that dependent ones have codes, too."""
SLOPE_TOLERANCE = 1e-10
"""A code stays zero if it would rise more slowly than this share of the largest product."""
CHUNK_BYTES = 2**26
"""Of the matrices that are solved at once."""


@torch.library.custom_op("semlens::nonnegative_least_squares", mutates_args=())
def _solve(x: Tensor, directions: Tensor) -> Tensor:
    # a GPU of Apple has no float64
    device = "cpu" if x.device.type == "mps" else x.device
    rows, wide = x.to(device, torch.float64), directions.to(device, torch.float64)
    products, gram = rows @ wide.T, wide @ wide.T
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    codes = torch.empty_like(products)
    step = max(1, CHUNK_BYTES // (8 * len(gram) ** 2))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        codes[part], open_rows = _pivot(products[part], gram, _descend(products[part], gram) > 0)
        for row in (start + open_rows).tolist():
            exact = nnls(wide.T.cpu().numpy(), rows[row].cpu().numpy())[0]
            codes[row] = torch.from_numpy(exact).to(device)
    finite = rows.isfinite().all(1, keepdim=True)
    return torch.where(finite, codes, torch.nan).to(x)


@_solve.register_fake
def _(x: Tensor, directions: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], directions.shape[0])  # len() would fix the batch size


def _descend(products: Tensor, gram: Tensor) -> Tensor:
    """Return codes near the solution (Cichocki & Phan 2009, HALS)."""
    codes, wanted = torch.zeros_like(products.T).contiguous(), products.T
    diagonal = gram.diagonal().clamp_min(1e-30)
    for _ in range(SWEEPS):
        for k, column in enumerate(gram.unbind(1)):
            step = (wanted[k] - column @ codes) / diagonal[k]
            codes[k] = (codes[k] + step).clamp_min_(0)
    return codes.T


def _pivot(products: Tensor, gram: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes of each row, and the rows for which they were not found.

    The codes that are not zero, ``passive``, solve their equations exactly. Those that come out
    negative, and zeros that would lower the error by rising, change sides, all at once or, if that
    does not help, one by one (Kim & Park 2011, block principal pivoting).
    """
    count = len(gram)
    codes, places = torch.zeros_like(products), torch.arange(count, device=products.device)
    pending = torch.arange(len(products), device=products.device)
    fewest = torch.full_like(pending, count + 1)
    patience = torch.full_like(pending, PATIENCE)
    for _ in range(PIVOTS):
        wanted, inside = products[pending], passive[pending]
        found = _solve_passive(wanted, gram, inside)
        least = -SLOPE_TOLERANCE * wanted.abs().amax(1, keepdim=True)
        wrong = torch.where(inside, found < 0, found @ gram - wanted < least)
        codes[pending] = found
        number = wrong.sum(1)
        unsolved = number > 0
        pending, wrong, number = pending[unsolved], wrong[unsolved], number[unsolved]
        if not len(pending):
            break
        better = number < fewest[pending]
        patience[pending] = torch.where(better, PATIENCE, patience[pending] - 1)
        fewest[pending] = torch.minimum(fewest[pending], number)
        last = places == (places * wrong).argmax(1, keepdim=True)
        passive[pending] ^= torch.where((patience[pending] >= 0)[:, None], wrong, last)
    return codes, pending


def _solve_passive(products: Tensor, gram: Tensor, passive: Tensor) -> Tensor:
    """Return the least squares codes of each row on its passive directions, zero elsewhere."""
    most = int(passive.sum(1).amax())
    order = passive.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    used = passive.gather(1, order)
    unit = torch.eye(most, dtype=gram.dtype, device=gram.device)
    both = used[:, :, None] & used[:, None, :]
    equations = torch.where(both, gram[order[:, :, None], order[:, None, :]], unit)
    found = torch.linalg.solve(equations, products.gather(1, order) * used)
    return torch.zeros_like(products).scatter_(1, order, found)


def nonnegative_least_squares(
    x: Float[Tensor, "n c"], directions: Float[Tensor, "k c"]
) -> Float[Tensor, "n k"]:
    """Return the codes ``z >= 0`` that minimise ``|x - z directions|^2``, row by row.

    The exact solution, in float64, whatever the angles between directions; of dependent directions
    one of the solutions. A row that is not finite has NaN. It is one operator in a captured graph.
    """
    return _solve(x, directions)
