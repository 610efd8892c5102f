"""The common part of all swaps: gains of the classes, their test, and the excited components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from semlens.lenses.class_relevance import mean_shares
from semlens.lenses.classes import class_name
from semlens.lenses.swap.effect import SwapEffect, Transfer, model_inputs, swap_effect
from semlens.lenses.swap.outlier_test import leave_one_out
from semlens.lenses.swap.pairs import Pairs, SwapPlan
from semlens.models.subject import input_pictures
from semlens.progress import report_progress
from semlens.store.reader import Database

ALPHA = 0.05
"""Family-wise error rate, over classes and sizes."""
EXCITED = 10
"""Components that are listed for each class."""
SHOWN = 6
"""Pasted images in a plot."""

Transfers = Mapping[tuple[int, float], Transfer]
"""What is exchanged, by class and size."""


def measure_swaps(
    database: Database,
    plan: SwapPlan,
    sizes: Sequence[float],
    size_name: str,
    transfers: Transfers,
    batch_size: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure and test all classes.

    Parameters
    ----------
    sizes, size_name
        Sizes of what is exchanged, and the column that states them.

    Returns
    -------
    tuple
        The classes (``class``, ``logit``, the size, ``gain``, ``p_value``, ``adjusted``,
        ``detected``), smallest p-value first, and the components (``class``, the size,
        ``component``, ``rise``, ``effect``, ``relevance``), in the same order of classes.
    """
    layers = list(database.layer_names(None))
    effects: dict[tuple[int, float], SwapEffect] = {}
    total = len(sizes) * len(plan.pairs)
    for size in sizes:
        for pairs in plan.pairs:
            key = (pairs.target, size)
            effects[key] = swap_effect(database, pairs, transfers[key], layers, batch_size)
            report_progress("swapping", len(effects), total)
    frame = _tested(database, plan, effects, sizes, size_name)
    tables = [
        _excited(database, effects[row["logit"], row[size_name]], row, size_name)
        for row in frame.to_dict("records")
    ]
    return frame, pd.concat(tables, ignore_index=True)


def _tested(
    database: Database,
    plan: SwapPlan,
    effects: Mapping[tuple[int, float], SwapEffect],
    sizes: Sequence[float],
    size_name: str,
) -> pd.DataFrame:
    """Test each class against the others at the same size."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        gains = np.array([effects[pairs.target, size].gain for pairs in plan.pairs])
        for pairs, gain, p in zip(plan.pairs, gains, leave_one_out(gains), strict=True):
            if pairs.target in plan.tested:
                named = {"class": class_name(database, pairs.target), "logit": pairs.target}
                rows.append({**named, size_name: size, "gain": gain, "p_value": p})
    frame = pd.DataFrame(rows).sort_values(["p_value", "logit"], ignore_index=True)
    adjusted = np.minimum(frame["p_value"].to_numpy() * len(frame), 1.0)
    return frame.assign(adjusted=adjusted, detected=adjusted < ALPHA)


def _excited(
    database: Database, effect: SwapEffect, row: Mapping[Any, Any], size_name: str
) -> pd.DataFrame:
    """Return the components that parts of a class's images excite most."""
    order = np.argsort(-effect.effect, kind="stable")[:EXCITED]
    return pd.DataFrame(
        {
            "class": row["class"],
            size_name: row[size_name],
            "component": [str(database.component(int(i))) for i in order],
            "rise": effect.rise[order],
            "effect": effect.effect[order],
            "relevance": mean_shares(database, int(row["logit"]))[order],
        }
    )


def pasted_pictures(
    database: Database, pairs: Pairs, transfer: Transfer
) -> tuple[tuple[Image.Image, Image.Image], ...]:
    """Return pictures of some receivers, and of the same with a part of the donors."""
    receivers, donors = (
        model_inputs(database, samples[:SHOWN]) for samples in (pairs.receivers, pairs.donors)
    )
    both = (receivers, transfer(receivers, donors, slice(SHOWN)))
    plain, pasted = (input_pictures(database.model, inputs) for inputs in both)
    return tuple(zip(plain, pasted, strict=True))
