"""How the three measures are distributed over the components of each layer (paper, Fig. 5b)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from semlens.analysis.scores import MEASURES

BINS = 40
"""Bins at most."""
_STEPS = (0.005, 0.01, 0.02, 0.025, 0.05, 0.1)


@dataclass(frozen=True)
class MeasureDescription:
    """What a measure says, and how to read it."""

    definition: str
    reading: str
    equation: str
    better: str
    """Whether ``high`` or ``low`` values are easier to interpret."""


MEANINGS = {
    "clarity": MeasureDescription(
        "Mean cosine similarity of all pairs of a component's concept examples.",
        "High: the examples share one theme. Low: they are cluttered, abstract or unrelated.",
        "paper, Eqs. 6 and 7",
        "high",
    ),
    "redundancy": MeasureDescription(
        "Largest cosine similarity of a component's concept vector with another one of its layer.",
        "High: the layer has a component of nearly the same meaning, though perhaps of another "
        "use. Low: it is the only one.",
        "paper, Eqs. 8 and 9",
        "low",
    ),
    "polysemanticity": MeasureDescription(
        "One less the cosine similarity of the two halves into which k-means splits a "
        "component's concept examples.",
        "High: the examples show two different things. Low: they show one.",
        "paper, Eq. 10 with h = 2",
        "low",
    ),
}
"""The measures of section 3.5, in the order of :data:`semlens.analysis.scores.MEASURES`."""


@dataclass(frozen=True)
class LayerSummary:
    """One measure in one layer; None where no component has the measure."""

    layer: str
    counts: tuple[int, ...]
    components: int
    """How many components have the measure."""
    mean: float | None
    quartiles: tuple[float, float, float] | None


@dataclass(frozen=True)
class Distribution:
    """One measure in all layers, over common bins; a bin holds ``edge[i] <= v < edge[i + 1]``."""

    measure: str
    meaning: MeasureDescription
    edges: tuple[float, ...]
    layers: tuple[LayerSummary, ...]


def distributions(scores: pd.DataFrame) -> list[Distribution]:
    """Count the components of each layer by each measure.

    Parameters
    ----------
    scores
        One row per component: layer and the measures (``scores(database).frame``).
    """
    return [_distribution(scores, measure) for measure in MEASURES]


def _distribution(scores: pd.DataFrame, measure: str) -> Distribution:
    edges = _edges(scores[measure].to_numpy(np.float64))
    spreads: list[LayerSummary] = []
    for name, part in scores.groupby("layer", sort=False):
        value = part[measure].dropna().to_numpy(np.float64)
        spreads.append(
            LayerSummary(
                str(name),
                tuple(np.histogram(value, edges)[0].tolist()),
                len(value),
                float(value.mean()) if len(value) else None,
                tuple(np.quantile(value, (0.25, 0.5, 0.75)).tolist()) if len(value) else None,
            )
        )
    return Distribution(measure, MEANINGS[measure], tuple(edges.tolist()), tuple(spreads))


def _edges(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " e"]:
    """Return round edges: the finest of a few steps that gives at most BINS bins."""
    values = values[np.isfinite(values)]
    if not len(values):
        return np.asarray([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    step = next((s for s in _STEPS if (high - low) / s < BINS - 1), _STEPS[-1])
    first, last = int(np.floor(low / step)), int(np.floor(high / step)) + 1
    edges = np.arange(first, last + 1) * step
    # rounded, so that 0.15000000000000002 can be asked for as 0.15
    edges = np.round(edges, 3)
    # a value beside an edge may lie on its other side after the division
    if edges[0] > low:
        edges = np.concatenate([[np.round(edges[0] - step, 3)], edges])
    if edges[-1] <= high:
        edges = np.concatenate([edges, [np.round(edges[-1] + step, 3)]])
    return edges
