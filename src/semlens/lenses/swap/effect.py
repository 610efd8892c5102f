"""What it does to a class's logit and to every component if images get a part of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from PIL import Image
from torch import Tensor

from semlens.errors import ModelError
from semlens.lenses.class_relevance import mean_shares
from semlens.lenses.classes import class_name
from semlens.lenses.database_engine import by_component
from semlens.lenses.statistics.excess import excess_over_others
from semlens.lenses.swap.pairs import Pairs, SwapPlan
from semlens.lenses.swap.parts import Part, Transfer, model_inputs
from semlens.models.forward import readouts_and_logits_of
from semlens.models.output_tensor import NO_LOGITS
from semlens.models.subject import input_pictures
from semlens.progress import report_progress
from semlens.store.reader import Database

ALPHA = 0.05
"""Family-wise error rate, over classes and sizes."""
FACTOR, MARGIN = 1.5, 1 / 3
"""A class relies on a part if it gains more than this factor times what other classes gain, plus
this many standard deviations of a logit on images of other classes. Chosen on the demo and six of
the planted worlds (``docs/planted.md``), so that what classes gain without a mark, such as faces
that fill their images, is below."""
EXCITED = 10
"""Components that are listed for each class."""
SHOWN = 6
"""Pasted images in a plot."""

Transfers = Mapping[tuple[int, float], Transfer]
"""What is exchanged, by class and size."""


@dataclass(frozen=True, eq=False)
class SwapEffect:
    """The difference that it makes whether a part comes from the class or from a third one.

    Parameters
    ----------
    gain
        Mean rise of the class's logit.
    by_donor
        The same for each donor.
    spread
        Standard deviation of the logit on the images of other classes, with a third class's part.
    rise
        Mean rise of each component's readout.
    effect
        The same in standard deviations between images (Cohen's d); 0 where all are equal.
    """

    gain: float
    by_donor: Float64[np.ndarray, " donors"]
    spread: float
    rise: Float64[np.ndarray, " components"]
    effect: Float64[np.ndarray, " components"]


def swap_effect(
    database: Database,
    pairs: Pairs,
    transfer: Transfer,
    layers: Sequence[str],
    batch_size: int,
) -> SwapEffect:
    """Give each receiver a part of its donor, and compare with the third class's donor.

    Images are the model's input, so that what is exchanged is what the model sees.

    Raises
    ------
    ModelError
        If the model has no logits.
    """
    runs: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []), ([], [])]
    for start in range(0, len(pairs.receivers), batch_size):
        part = slice(start, start + batch_size)
        receivers, *sources = (
            model_inputs(database, samples[part])
            for samples in (pairs.receivers, pairs.donors, pairs.third)
        )
        for (logits, readouts), source in zip(runs, sources, strict=True):
            batch = transfer(receivers, source, part)
            logit, values = _run(database, batch, pairs.target, layers)
            logits.append(logit)
            readouts.append(values)
    (logit, values), (third_logit, third_values) = (map(np.concatenate, one) for one in runs)
    rise = values.mean(0) - third_values.mean(0)
    spread = np.sqrt((values.var(0) + third_values.var(0)) / 2)
    effect = np.divide(rise, spread, out=np.zeros_like(rise), where=spread > 0)
    gains = logit - third_logit
    _, donor = np.unique(pairs.donors, return_inverse=True)  # one may occur several times
    by_donor = np.bincount(donor, gains) / np.bincount(donor)
    return SwapEffect(float(gains.mean()), by_donor, float(third_logit.std()), rise, effect)


def _run(
    database: Database, batch: Tensor, target: int, layers: Sequence[str]
) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, "b components"]]:
    """Return the class's logit and the readout of every component."""
    readout = database.manifest.recipe.readout
    values, logits = readouts_and_logits_of(database.model, [batch], layers, readout)
    if (error := database.model.answer_error) is not None:
        raise ModelError(
            f"The model returns no logits: {error.value}", error.expected, error.remedy
        )
    if logits is None or target >= logits.shape[1]:
        count = 0 if logits is None else logits.shape[1]
        raise ModelError(
            f"The model returns {count} logits per image; the class has number {target}.",
            *NO_LOGITS,
        )
    return (
        logits[:, target].astype(np.float64),
        by_component(database, layers, values).astype(np.float64),
    )


def measure_swaps(
    database: Database,
    plan: SwapPlan,
    part: Part,
    sizes: Sequence[float],
    transfers: Transfers,
    batch_size: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure and test all classes.

    Returns
    -------
    tuple
        The classes (``class``, ``logit``, ``part``, ``size``, ``gain``, ``excess``, ``p_value``),
        smallest p-value first, and the components (``class``, ``part``, ``size``, ``component``,
        ``rise``, ``effect``, ``relevance``), in the same order of classes.
    """
    layers = list(database.layer_names(None))
    effects: dict[tuple[int, float], SwapEffect] = {}
    total = len(sizes) * len(plan.pairs)
    for size in sizes:
        for pairs in plan.pairs:
            key = (pairs.target, size)
            effects[key] = swap_effect(database, pairs, transfers[key], layers, batch_size)
            report_progress("swapping", len(effects), total)
    frame = _tested(database, plan, part, effects)
    tables = [
        _excited(database, effects[row["logit"], row["size"]], row)
        for row in frame.to_dict("records")
    ]
    return frame, pd.concat(tables, ignore_index=True)


def _tested(
    database: Database,
    plan: SwapPlan,
    part: Part,
    effects: Mapping[tuple[int, float], SwapEffect],
) -> pd.DataFrame:
    """Test whether each class gains much more than the others do, at the same size."""
    rows: list[dict[str, Any]] = []
    for size in dict.fromkeys(size for _, size in effects):
        measured = [effects[pairs.target, size] for pairs in plan.pairs]
        scale = gain_scale(measured)
        tests = excess_over_others([one.by_donor / scale for one in measured], FACTOR, MARGIN)
        for pairs, one, excess, p in zip(plan.pairs, measured, *tests, strict=True):
            if pairs.target in plan.tested:
                name = class_name(database, pairs.target)
                rows.append(
                    {"class": name, "logit": pairs.target, "part": part, "size": size,
                     "gain": one.gain, "excess": excess, "p_value": p}
                )  # fmt: skip
    return pd.DataFrame(rows).sort_values(["p_value", "logit"], ignore_index=True)


def gain_scale(effects: Sequence[SwapEffect]) -> float:
    """Return the unit of gains: a logit's standard deviation on images of other classes.

    That of the median class: one whose logit hardly varies would gain too much in its own.
    """
    return float(np.median([one.spread for one in effects])) or 1.0


def _excited(database: Database, effect: SwapEffect, row: Mapping[Any, Any]) -> pd.DataFrame:
    """Return the components that parts of a class's images excite most."""
    order = np.argsort(-effect.effect, kind="stable")[:EXCITED]
    return pd.DataFrame(
        {
            "class": row["class"],
            "part": row["part"],
            "size": row["size"],
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
