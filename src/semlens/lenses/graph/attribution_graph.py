"""Attribution graphs: which concepts a class relies on, by layer (paper, Fig. 2c and D.5)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from PIL import Image

from semlens.errors import RelevanceError
from semlens.lens import lens
from semlens.lenses.arguments import Samples, Target
from semlens.lenses.classes import Pictures
from semlens.lenses.database_engine import RulesLike
from semlens.lenses.database_targets import class_target
from semlens.lenses.graph.graph_result import (
    AttributionGraph,
    audited_verdicts,
    build_graph,
    group_components,
)
from semlens.lenses.graph.relevance_trace import (
    IMAGES,
    GraphTrace,
    TracedLayer,
    make_job,
    received_relevance,
    single_readings,
    strongest_components,
)
from semlens.lenses.labelling.component_labels import NAMES, LabelSource, as_labels
from semlens.lenses.labelling.label import LabelThreshold
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

MINIMUM = 0.01
"""Minimum share of a component in the graph (paper, D.5)."""


@lens("model", "images", "embedder", group="Explain", command="")
def attribution_graph(
    database: Database,
    target: Target,
    concepts: LabelSource = NAMES,
    *,
    threshold: LabelThreshold = None,
    samples: Samples = IMAGES,
    images: Pictures = None,
    layers: Layers = None,
    minimum: Annotated[
        float, setting("Minimum share of a component, on its best image.", ge=0, le=1)
    ] = MINIMUM,
    top: Annotated[int | None, setting("Maximum number of components per layer.", ge=1)] = None,
    rules: RulesLike = None,
    batch_size: Annotated[
        int | None, setting("Images per pass [what memory allows].", ge=1)
    ] = None,
    verdicts: Annotated[
        bool | Mapping[str, str], setting("Show the verdicts of the class's audit, if it has one.")
    ] = True,
) -> AttributionGraph:
    """Trace the relevance of a class through groups of components.

    Relevance starts at the class's logit. In every layer, components whose share of the layer's
    absolute relevance is at least ``minimum`` on some image are selected and grouped by label.
    An edge is the relevance that arrives at a lower group if the relevance that the class
    assigns to an upper group is propagated alone.

    Parameters
    ----------
    concepts, threshold
        Source of labels: concepts, labels from ``db.label``, or labels by component.
        Components without a label are grouped as "?". With None, each component is a group of
        its own.
    samples, images
        Maximum number of samples of the class, or numbers of any samples; or pictures from
        anywhere. With a single picture, the graph is that of one prediction.
    verdicts
        Whether to show which part of each group the audit of the class calls valid or spurious,
        with its saved lists or else the bundled ones; or verdicts by component.

    Raises
    ------
    DataError
        If the class has no samples, and no samples or images are given.
    RelevanceError
        If the class does not exist, or its logit does not depend on a layer.
    """
    layers = single_readings(database, layers)
    job = make_job(database, target, samples, images, layers, rules, batch_size)
    labels = as_labels(database, concepts, layers, threshold)
    traced = strongest_components(job)
    groups = {
        layer.name: group_components(database, layer, labels, minimum, top) for layer in traced
    }
    group_indices = {
        layer.name: [layer.indices[columns].tolist() for columns in groups[layer.name].values()]
        for layer in traced
    }
    selected = {name: sum(indices, []) for name, indices in group_indices.items()}
    return build_graph(
        database,
        target,
        traced,
        groups,
        received_relevance(job, group_indices, selected),
        verdicts=(
            verdicts
            if isinstance(verdicts, Mapping)
            else audited_verdicts(database, target.index)
            if verdicts and target.index is not None
            else {}
        ),
        minimum=minimum,
        rules=job.engine.rules.name,
        example=job.images.read(job.images.samples[0]),
    )


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
    """Return the graph that ``db.attribution_graph`` would compute with these settings.

    Parameters
    ----------
    concepts, threshold, minimum, top
        See ``db.attribution_graph``.
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
        class_target(database, trace.target),
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
