"""What the experiments without words say about each class, corrected for all that were run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from semlens.lenses.audit.class_verdict import Experiment
from semlens.lenses.swap.border_swap import BorderSwap
from semlens.lenses.swap.colour_swap import ColourSwap
from semlens.lenses.swap.kept_swaps import kept_editions, kept_swap
from semlens.lenses.swap.measure import ALPHA
from semlens.lenses.swap.region_swap import RegionSwap
from semlens.lenses.swap.swap_result import Swap
from semlens.store.reader import Database

KINDS: tuple[type[Swap], ...] = (BorderSwap, RegionSwap, ColourSwap)
S = TypeVar("S", bound=Swap)


def kept_experiments(database: Database) -> dict[int, list[Experiment]]:
    """Return what the swaps that are kept in a database say about each class, by logit."""
    return experiments(kept_swaps(database))


def kept_swaps(database: Database) -> list[Swap]:
    """Return the swaps that are kept in a database, corrected for all of their tests."""
    kept = [kept_swap(database, kind) for kind in KINDS]
    return corrected([swap for swap in kept if swap is not None])


def edition(database: Database) -> list[float]:
    """Return a value that changes whenever a swap is kept."""
    return kept_editions(database, KINDS)


def corrected(swaps: Sequence[S]) -> list[S]:
    """Correct the p-values for all tests of all these swaps together (Bonferroni)."""
    tests = sum(len(swap.frame) for swap in swaps)
    done: list[S] = []
    for swap in swaps:
        adjusted = np.minimum(swap.frame["p_value"].to_numpy(float) * tests, 1.0)
        frame = swap.frame.assign(adjusted=adjusted, detected=adjusted < ALPHA)
        done.append(replace(swap, frame=frame))
    return done


def experiments(swaps: Sequence[Swap]) -> dict[int, list[Experiment]]:
    """Return what swaps say about each class, by logit, corrected for all of their tests."""
    tests = sum(len(swap.frame) for swap in swaps)
    found: dict[int, list[Experiment]] = {}
    for swap in corrected(swaps):
        # the smallest p-value of each class first
        rows = swap.frame.sort_values("adjusted", kind="stable").drop_duplicates("logit")
        for row in rows.to_dict("records"):
            p = float(row["adjusted"])
            one = Experiment(swap.name, swap.parts, swap.act, p, tests, len(swaps))
            found.setdefault(int(row["logit"]), []).append(one)
    return found
