"""Smaller attribution graphs out of one trace: exact, and in milliseconds.

Relevance is linear in where it starts, so what passes between two groups is the sum over
their components. How much of a layer the edges explain is no such sum: it is computed again,
sample by sample, from what the kept components get of the kept ones above.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from PIL import Image

from semlens.analysis.graph.attribution_graph import (
    MINIMUM,
    THRESHOLD,
    AttributionGraph,
    build_graph,
    group_components,
)
from semlens.analysis.graph.relevance_trace import GraphTrace, TracedLayer
from semlens.analysis.label import LabelSource, as_labels
from semlens.errors import RelevanceError
from semlens.store.reader import Database


def prune(
    trace: GraphTrace,
    database: Database,
    concepts: LabelSource = None,
    *,
    threshold: float = THRESHOLD,
    minimum: float = MINIMUM,
    top: int | None = None,
    example: Image.Image | None = None,
) -> AttributionGraph:
    """Return the graph that :func:`semlens.attribution_graph` would give with these settings.

    Parameters
    ----------
    concepts, threshold, minimum, top
        As there.
    example
        An image of the class, for the picture.

    Raises
    ------
    RelevanceError
        If components may reach ``minimum`` that were not traced.
    """
    labels = as_labels(database, concepts, [layer.name for layer in trace.layers], threshold)
    for layer in trace.layers:
        _check_depth(layer, database.layer(layer.name).rows, minimum, top)
    groups = {
        layer.name: group_components(database, layer, labels, minimum, top)
        for layer in trace.layers
    }
    came: dict[str, Float64[np.ndarray, "s a k"]] = {}
    for lower, upper in zip(trace.layers, trace.layers[1:], strict=False):
        above, below = (list(groups[layer.name].values()) for layer in (upper, lower))
        if above and below:
            mine = lower.came[:, :, sum(below, [])]
            came[lower.name] = np.stack(
                [mine[:, group].sum(1, dtype=np.float64) for group in above], 1
            )
    return build_graph(
        database,
        trace.target,
        trace.layers,
        groups,
        came,
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
            "Ask for less, or for an attribution_graph, which traces what it is asked for.",
        )
