"""Smaller attribution graphs out of one trace: exact, and in milliseconds.

Relevance is linear in where it starts, so what passes between two groups is the sum over
their components. How much of a layer the edges explain is no such sum: it is computed again,
sample by sample, from what the kept components get of the kept ones above.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from PIL import Image
from torch import Tensor

from semlens.analysis.graph.graph import MINIMUM, AttributionGraph, assemble
from semlens.analysis.graph.groups import Named, keep_groups
from semlens.analysis.graph.trace import GraphTrace, TracedLayer
from semlens.errors import RelevanceError
from semlens.store.reader import Database


def prune(
    trace: GraphTrace,
    database: Database,
    labels: Named = None,
    *,
    minimum: float = MINIMUM,
    top: int | None = None,
    example: Image.Image | None = None,
) -> AttributionGraph:
    """Return the graph that :func:`semlens.attribution_graph` would give with these settings.

    Parameters
    ----------
    labels, minimum, top
        As there.
    example
        An image of the class, for the picture.

    Raises
    ------
    RelevanceError
        If components may reach ``minimum`` that were not traced.
    """
    entries = [database.layer(layer.name) for layer in trace.layers]
    share: dict[str, Float[Tensor, "s k"]] = {}
    groups: dict[str, dict[str, list[int]]] = {}
    for entry, layer in zip(entries, trace.layers, strict=True):
        _check_depth(layer, entry.rows, minimum, top)
        full = np.zeros((len(trace.samples), entry.rows), np.float32)
        full[:, layer.places] = layer.share
        share[entry.name] = torch.from_numpy(full)
        groups[entry.name] = keep_groups(database, entry, share[entry.name], labels, minimum, top)
    columns = {
        layer.name: _columns(layer, list(groups[layer.name].values())) for layer in trace.layers
    }
    weight: dict[str, Float[Tensor, "a b"]] = {}
    explained: dict[str, float] = {}
    for lower, upper in zip(trace.layers, trace.layers[1:], strict=False):
        above, below = columns[upper.name], columns[lower.name]
        if above and below:
            weight[lower.name] = torch.from_numpy(_passed(lower, above, below))
            explained[lower.name] = _explained(lower, sum(above, []), sum(below, []))
    return assemble(
        database,
        trace.target,
        entries,
        share,
        groups,
        weight,
        explained,
        minimum=minimum,
        rules=trace.rules,
        example=example,
    )


def _check_depth(layer: TracedLayer, rows: int, minimum: float, top: int | None) -> None:
    """Refuse settings under which components count that were not traced."""
    traced = len(layer.places)
    complete = traced == rows or (top is not None and top <= traced)
    if not complete and float(layer.strength[-1]) >= minimum:
        raise RelevanceError(
            f"More than {traced} components of '{layer.name}' may reach {minimum:g} of its "
            f"relevance, and only {traced} were traced.",
            f"Expected {traced} components per layer at most, or a minimum above "
            f"{float(layer.strength[-1]):.3g}.",
            "Ask for less, or run 'semlens graph', which traces what it is asked for.",
        )


def _columns(layer: TracedLayer, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the groups by places in the trace instead of places in the layer."""
    column = {int(place): number for number, place in enumerate(layer.places)}
    return [[column[place] for place in group] for group in groups]


def _passed(
    lower: TracedLayer, above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]
) -> Float64[np.ndarray, "a b"]:
    """Sum what passes over the components of each two groups, mean over the samples."""
    mean = lower.came.mean(0, dtype=np.float64)
    rows = np.stack([mean[list(group)].sum(0) for group in above])
    return np.stack([rows[:, list(group)].sum(1) for group in below], 1)


def _explained(lower: TracedLayer, above: Sequence[int], below: Sequence[int]) -> float:
    """Return the part of a layer that edges explain: 1 less what differs, mean over samples."""
    came = lower.came[:, above][:, :, below].sum(1, dtype=np.float64)
    kept = lower.share[:, below].astype(np.float64)
    left_out = lower.mass - np.abs(kept).sum(1)
    missing = left_out + np.abs(kept - came).sum(1)
    return float(np.where(lower.mass > 0, 1 - missing, 0).mean())
