"""The best concept of each component, and the best component of each concept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from semlens.analysis.align import alignment
from semlens.analysis.compare.sets import ComponentSet
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.probe import Probe

CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Assignment:
    """Who aligns best with whom, of n components and q concepts.

    Parameters
    ----------
    concept
        int64[n], the best concept of each component; -1 at or below the threshold.
    alignment
        float32[n], its alignment, above the threshold or not.
    component
        int64[q], the best component of each concept, as a place in the set.
    reached
        float32[q], its alignment.
    """

    concept: Int64[np.ndarray, " n"]
    alignment: Float32[np.ndarray, " n"]
    component: Int64[np.ndarray, " q"]
    reached: Float32[np.ndarray, " q"]


def first_places(concepts: ConceptSet) -> Int64[np.ndarray, " q"]:
    """Return for each concept the place where its name (and images) stand first."""
    seen: dict[object, int] = {}
    places = [
        seen.setdefault((one.name, one.images), place)
        for place, one in enumerate(concepts.concepts)
    ]
    return np.asarray(places, np.int64)


def assign(
    one: ComponentSet, probe: Probe, concepts: ConceptSet, threshold: float, chunk: int = CHUNK
) -> Assignment:
    """Label components as ``label`` does, and find the nearest component of each concept.

    A concept that stands under several categories is the first of them.
    """
    count, first = len(concepts), first_places(concepts)
    best = np.zeros(len(one), np.int64)
    value = np.zeros(len(one), np.float32)
    component = np.zeros(count, np.int64)
    reached = np.full(count, -np.inf, np.float32)
    for start in range(0, len(one), chunk):
        values = alignment(one.database.theta[one.rows[start : start + chunk]], probe)
        rows = np.arange(len(values))
        best[start : start + chunk] = values.argmax(1)
        value[start : start + chunk] = values[rows, values.argmax(1)]
        top = values.argmax(0)
        better = values[top, np.arange(count)] > reached
        component[better] = top[better] + start
        reached[better] = values[top, np.arange(count)][better]
    return Assignment(np.where(value > threshold, first[best], -1), value, component, reached)
