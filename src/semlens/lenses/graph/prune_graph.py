"""Smaller attribution graphs from an existing trace: exact, and in milliseconds.

Relevance is linear in its starting value, so the relevance that passes between two groups is the
sum over their components. The fraction of a layer that the edges explain is not such a sum; it is
recomputed for each sample from the relevance that the selected components receive from the
selected components above.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float64
from PIL import Image

from semlens.lenses.graph.attribution_graph import MINIMUM
from semlens.lenses.graph.build_graph import build_graph, group_components
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.graph.relevance_trace import GraphTrace, TracedLayer
from semlens.lenses.labelling.label_source import LabelSource, as_labels
from semlens.errors import RelevanceError
from semlens.store.reader import Database


def prune_graph(
    trace: GraphTrace,
    database: Database,
    concepts: LabelSource = None,
    *,
    threshold: float | None = None,
    minimum: float = MINIMUM,
    top: int | None = None,
    verdicts: Mapping[str, str] = MappingProxyType({}),
    example: Image.Image | None = None,
) -> AttributionGraph:
    """Return the graph that :func:`semlens.attribution_graph` would compute with these settings.

    Parameters
    ----------
    concepts, threshold, minimum, top
        See :func:`semlens.attribution_graph`.
    verdicts
        Of the class's audit, by component; may be empty.
    example
        An image of the class, for the picture.

    Raises
    ------
    RelevanceError
        If components that were not traced may have a share of at least ``minimum``.
    """
    labels = as_labels(database, concepts, [layer.name for layer in trace.layers], threshold)
    for layer in trace.layers:
        _check_depth(layer, database.layer(layer.name).rows, minimum, top)
    groups = {
        layer.name: group_components(database, layer, labels, minimum, top)
        for layer in trace.layers
    }
    received: dict[str, Float64[np.ndarray, "s a k"]] = {}
    for lower, upper in zip(trace.layers, trace.layers[1:], strict=False):
        upper_groups, lower_groups = (list(groups[layer.name].values()) for layer in (upper, lower))
        if upper_groups and lower_groups:
            # sum over the components of each upper group
            selected = lower.received[:, :, sum(lower_groups, [])]
            received[lower.name] = np.stack(
                [selected[:, group].sum(1, dtype=np.float64) for group in upper_groups], 1
            )
    return build_graph(
        database,
        trace.target,
        trace.layers,
        groups,
        received,
        verdicts=verdicts,
        minimum=minimum,
        rules=trace.rules,
        example=example,
    )


def _check_depth(layer: TracedLayer, rows: int, minimum: float, top: int | None) -> None:
    """Check that the settings select traced components only."""
    traced = len(layer.indices)
    complete = traced == rows or (top is not None and top <= traced)
    if not complete and float(layer.strength[-1]) >= minimum:
        raise RelevanceError(
            f"More than {traced} components of '{layer.name}' may have at least {minimum:g} of its "
            f"relevance, but only {traced} were traced.",
            f"Expected top to be at most {traced}, or a minimum above "
            f"{float(layer.strength[-1]):.3g}.",
            "Change one of them, or call attribution_graph, which traces all components.",
        )
