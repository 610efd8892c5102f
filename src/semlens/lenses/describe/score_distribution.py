"""Distributions of the three measures over the components of each layer (paper, Fig. 5b)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float64

from semlens.lenses.scores import MEASURES

BINS = 40
"""Maximum number of bins."""
_STEPS = (0.005, 0.01, 0.02, 0.025, 0.05, 0.1)


@dataclass(frozen=True)
class MeasureDescription:
    """Definition and interpretation of a measure."""

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
        "High: the layer has a component with nearly the same meaning, though perhaps used "
        "differently. Low: the component is unique in its layer.",
        "paper, Eqs. 8 and 9",
        "low",
    ),
    "polysemanticity": MeasureDescription(
        "1 - cosine similarity of the two clusters into which k-means splits a component's "
        "concept examples.",
        "High: the examples show two different things. Low: they show one.",
        "paper, Eq. 10 with h = 2",
        "low",
    ),
}
"""The measures of section 3.5, in the order of :data:`semlens.lenses.scores.MEASURES`."""


@dataclass(frozen=True)
class LayerSummary:
    """One measure in one layer; None if no component has the measure."""

    layer: str
    counts: tuple[int, ...]
    components: int
    """Number of components with the measure."""
    mean: float | None
    quartiles: tuple[float, float, float] | None


@dataclass(frozen=True)
class MeasureDistribution:
    """One measure in all layers, over common bins; a bin holds ``edge[i] <= v < edge[i + 1]``."""

    measure: str
    meaning: MeasureDescription
    edges: tuple[float, ...]
    layers: tuple[LayerSummary, ...]


def distributions(scores: pd.DataFrame) -> list[MeasureDistribution]:
    """Return the histogram of each measure per layer.

    Parameters
    ----------
    scores
        One row per component: layer and the measures (``scores(database).frame``).
    """
    return [_distribution(scores, measure) for measure in MEASURES]


def _distribution(scores: pd.DataFrame, measure: str) -> MeasureDistribution:
    edges = _edges(scores[measure].to_numpy(np.float64))
    summaries: list[LayerSummary] = []
    for name, group in scores.groupby("layer", sort=False):
        values = group[measure].dropna().to_numpy(np.float64)
        summaries.append(
            LayerSummary(
                str(name),
                tuple(np.histogram(values, edges)[0].tolist()),
                len(values),
                float(values.mean()) if len(values) else None,
                tuple(np.quantile(values, (0.25, 0.5, 0.75)).tolist()) if len(values) else None,
            )
        )
    return MeasureDistribution(measure, MEANINGS[measure], tuple(edges.tolist()), tuple(summaries))


def _edges(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " e"]:
    """Return round bin edges, with the smallest step that gives at most BINS bins."""
    values = values[np.isfinite(values)]
    if not len(values):
        return np.asarray([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    step = next((s for s in _STEPS if (high - low) / s < BINS - 1), _STEPS[-1])
    first, last = int(np.floor(low / step)), int(np.floor(high / step)) + 1
    edges = np.arange(first, last + 1) * step
    # rounded, so that 0.15 in a query matches 0.15000000000000002
    edges = np.round(edges, 3)
    # floating-point division may put a value near an outer edge on its other side
    if edges[0] > low:
        edges = np.concatenate([[np.round(edges[0] - step, 3)], edges])
    if edges[-1] <= high:
        edges = np.concatenate([edges, [np.round(edges[-1] + step, 3)]])
    return edges
