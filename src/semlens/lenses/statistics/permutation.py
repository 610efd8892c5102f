"""P-values of permutation and Monte Carlo tests."""

from __future__ import annotations

from typing import Any, overload

import numpy as np


@overload
def permutation_p(reached: int | np.integer, draws: int) -> float: ...
@overload
def permutation_p(reached: np.ndarray, draws: int) -> np.ndarray: ...
def permutation_p(reached: Any, draws: int) -> Any:
    """Return the p-value of a test by random draws: the observed value counts as one of them.

    So it is never 0, and at most ``a`` with probability at most ``a`` where there is nothing to
    find (Phipson and Smyth, Permutation p-values should never be zero, 2010).

    Parameters
    ----------
    reached
        How many draws are as extreme as the observed value, as a number or an array; ties count.
    """
    return (1 + reached) / (1 + draws)
