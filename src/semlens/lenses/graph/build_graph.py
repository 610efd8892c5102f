"""Nodes and edges of an attribution graph, from traced relevance (paper, D.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from PIL import Image

from semlens.draw.graph_layout import (
    GraphEdge,
    GraphNode,
)
from semlens.draw.palette import NO_VERDICT, VERDICTS
from semlens.errors import SemlensError
from semlens.lenses.audit.audit import audit
from semlens.lenses.audit.audit_records import AuditSettings, audit_records
from semlens.lenses.audit.saved_audits import marked_spurious
from semlens.lenses.classes import class_name
from semlens.lenses.graph.graph_result import TARGET, AttributionGraph
from semlens.lenses.graph.relevance_trace import (
    TracedLayer,
)
from semlens.lenses.labelling.component_labels import ComponentLabels, label_of
from semlens.lenses.resolve_concepts import concepts_by_class
from semlens.store.reader import Database


def verdict_composition(
    shares: Sequence[float], verdicts: Sequence[str | None]
) -> dict[str, float]:
    """Return the share of each verdict in a group of components; they sum to 1.

    A component counts by the absolute value of its share of the layer's relevance; if all are
    zero, each counts alike.

    Parameters
    ----------
    shares
        Signed share of each component.
    verdicts
        Its verdict; None if the audit has none, which is the key "no verdict".
    """
    weights = [abs(share) for share in shares]
    total = sum(weights)
    if total == 0:
        weights, total = [1.0] * len(weights), float(len(weights))
    found = dict.fromkeys((*VERDICTS, NO_VERDICT), 0.0)
    for weight, verdict in zip(weights, verdicts, strict=True):
        found[verdict or NO_VERDICT] += weight / total
    return {verdict: share for verdict, share in found.items() if share > 0}


def with_verdicts(node: GraphNode, verdicts: Mapping[str, str]) -> GraphNode:
    """Return a group with its composition; without any verdicts, as it is.

    Parameters
    ----------
    verdicts
        By component.
    """
    if not verdicts:
        return node
    of_members = [verdicts.get(component) for component in node.components]
    return replace(node, verdicts=verdict_composition(node.shares, of_members))


def audited_verdicts(database: Database, target: int) -> dict[str, str]:
    """Return the verdicts on the components of a class, as the web application shows them.

    They come from the lists of its most recently edited saved audit, or else from the bundled
    sets; a component that a person has marked is spurious. Empty if there are no lists for the
    class and no marks, or no class relevance.
    """
    if database.manifest.relevance is None:
        return {}
    marked = dict.fromkeys(marked_spurious(database, target), "spurious")
    try:
        resolved = concepts_by_class(database)[0].get(target)
        if resolved is None:
            return marked
        settings = AuditSettings()
        if resolved.audit is not None:
            settings = audit_records(database).get(resolved.audit).settings
        frame = audit(
            database, target, resolved.concepts, resamples=0, **settings.as_arguments()
        ).frame
    except SemlensError:  # such as an embedder without texts; the graph is complete without
        return marked
    return dict(zip(frame["component"], frame["verdict"], strict=True)) | marked


UNLABELLED = "?"


def group_components(
    database: Database, layer: TracedLayer, labels: ComponentLabels, minimum: float, top: int | None
) -> dict[str, list[int]]:
    """Select traced components of a layer, and return their columns by label, strongest first.

    Parameters
    ----------
    labels
        Components without a label are grouped as "?". With None, each is a group of its own.
    minimum, top
        Selects the ``top`` strongest components with a share of at least ``minimum`` on some
        sample.
    """
    first, groups = database.layer(layer.name).first, dict[str, list[int]]()
    for column in np.flatnonzero(layer.strength >= minimum)[:top].tolist():
        component = database.component(first + int(layer.indices[column]))
        name = f"#{'-' if component.sign < 0 else ''}{component.index}"
        label = name if labels is None else label_of(labels, component) or UNLABELLED
        groups.setdefault(label, []).append(column)
    return groups


def make_node(
    database: Database, layer: TracedLayer, label: str, columns: Sequence[int]
) -> GraphNode:
    """Return the node for some traced components of a layer."""
    group_share = layer.share[:, list(columns)].sum(1)
    rows = database.layer(layer.name).first + layer.indices[list(columns)]
    maximum = float(group_share[np.abs(group_share).argmax()])
    identity, names = f"{layer.name}/{label}", tuple(database.names(rows))
    means = tuple(layer.share[:, list(columns)].mean(0, dtype=np.float64).tolist())
    return GraphNode(identity, layer.name, label, names, float(group_share.mean()), maximum, means)


def make_edges(
    names: Sequence[str],
    nodes: Mapping[str, Sequence[GraphNode]],
    weight: Mapping[str, Float[np.ndarray, "a b"]],
) -> list[GraphEdge]:
    """Return the edges, starting at the class.

    Parameters
    ----------
    names
        Names of the layers, from the lowest to the highest.
    nodes
        Nodes of each layer, in the order of the groups.
    weight
        By lower layer, the relevance that its b groups receive from the a groups of the layer
        above.
    """
    edges = [GraphEdge(TARGET, node.id, node.mean) for node in nodes[names[-1]]]
    for lower, upper in reversed(list(zip(names, names[1:], strict=False))):
        if lower in weight:
            edges += [
                GraphEdge(source.id, target.id, float(value))
                for source, weights in zip(nodes[upper], weight[lower], strict=True)
                for target, value in zip(nodes[lower], weights, strict=True)
                if value != 0
            ]
    return edges


def build_graph(
    database: Database,
    target: int,
    layers: Sequence[TracedLayer],
    groups: Mapping[str, Mapping[str, Sequence[int]]],
    received: Mapping[str, Float[np.ndarray, "s a k"]],
    *,
    verdicts: Mapping[str, str],
    minimum: float,
    rules: str,
    example: Image.Image | None = None,
) -> AttributionGraph:
    """Build a graph from traced relevance.

    The fraction of a layer that the edges explain is 1 minus the difference between the selected
    components' shares and the relevance that they receive, so that too much and too little both
    count as unexplained.

    Parameters
    ----------
    layers
        From the lowest to the highest.
    groups
        By layer and label, the columns of the selected components.
    received
        By lower layer, the relevance that its k selected components, group by group, receive from
        each of the a groups of the layer above.
    verdicts
        By component; may be empty.
    """
    nodes = [GraphNode(TARGET, "", class_name(database, target), (), 1.0, 1.0)]
    layer_nodes: dict[str, list[GraphNode]] = {}
    share_shown: dict[str, float] = {}
    edges_shown: dict[str, float] = {}
    weight: dict[str, Float[np.ndarray, "a b"]] = {}
    for layer in layers:
        name, label_columns = layer.name, groups[layer.name]
        layer_nodes[name] = [
            with_verdicts(make_node(database, layer, label, columns), verdicts)
            for label, columns in label_columns.items()
        ]
        selected = layer.share[:, sum(map(list, label_columns.values()), [])].astype(np.float64)
        share_shown[name] = float(np.abs(selected).sum(1).mean())
        edges_shown[name] = share_shown[name] if layer is layers[-1] else 0.0
        if name in received:
            # the relevance of other components, plus what differs from the received relevance
            difference = np.abs(selected - received[name].sum(1)).sum(1)
            mismatch = layer.total - np.abs(selected).sum(1) + difference
            edges_shown[name] = float(np.where(layer.total > 0, 1 - mismatch, 0).mean())
            starts = np.cumsum([0, *map(len, label_columns.values())])[:-1]
            weight[name] = np.add.reduceat(received[name].mean(0, dtype=np.float64), starts, axis=1)
    for name in reversed(layer_nodes):
        nodes += sorted(layer_nodes[name], key=lambda node: -abs(node.mean))
    return AttributionGraph(
        target,
        nodes[0].label,
        len(layers[-1].share),
        minimum,
        rules,
        tuple(nodes),
        tuple(make_edges([layer.name for layer in layers], layer_nodes, weight)),
        share_shown,
        edges_shown,
        database,
        example,
    )
