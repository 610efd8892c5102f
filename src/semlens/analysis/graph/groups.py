"""The parts of an attribution graph: groups of components that share a label, and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from semlens.analysis.graph.trace import TracedLayer
from semlens.analysis.label_source import Named, label_of
from semlens.draw.graph_layout import GraphEdge, GraphNode
from semlens.store.reader import Database

TARGET = "target"
"""The id of the node that stands for the class."""

UNLABELLED = "?"


def keep_groups(
    database: Database, layer: TracedLayer, labels: Named, minimum: float, top: int | None
) -> dict[str, list[int]]:
    """Return by label which of a layer's traced components are kept, largest share first.

    Parameters
    ----------
    labels
        Components without one are grouped as "?". None makes each a group of its own.
    minimum, top
        Components whose share reaches ``minimum`` on some sample, and of those the ``top``
        strongest.
    """
    first, found = database.layer(layer.name).first, dict[str, list[int]]()
    for column in np.flatnonzero(layer.strength >= minimum)[:top].tolist():
        component = database.component(first + int(layer.places[column]))
        if labels is None:
            label = f"#{'-' if component.sign < 0 else ''}{component.index}"
        else:
            label = label_of(labels, component) or UNLABELLED
        found.setdefault(label, []).append(column)
    return found


def make_node(
    database: Database, layer: TracedLayer, label: str, columns: Sequence[int]
) -> GraphNode:
    """Return the node of some traced components of a layer."""
    together = layer.share[:, list(columns)].sum(1)
    rows = database.layer(layer.name).first + layer.places[list(columns)]
    largest = float(together[np.abs(together).argmax()])
    identity, names = f"{layer.name}/{label}", tuple(database.names(rows))
    return GraphNode(identity, layer.name, label, names, float(together.mean()), largest)


def make_edges(
    names: Sequence[str],
    of: Mapping[str, Sequence[GraphNode]],
    weight: Mapping[str, Float[np.ndarray, "a b"]],
) -> list[GraphEdge]:
    """Return the edges from the class down.

    Parameters
    ----------
    names
        The layers, from the lowest to the highest.
    of
        Their nodes, in the order of the groups.
    weight
        By lower layer: what comes to its groups from those of the layer above.
    """
    found = [GraphEdge(TARGET, node.id, node.mean) for node in of[names[-1]]]
    for lower, upper in reversed(list(zip(names, names[1:], strict=False))):
        if lower in weight:
            found += [
                GraphEdge(source.id, target.id, float(value))
                for source, row in zip(of[upper], weight[lower], strict=True)
                for target, value in zip(of[lower], row, strict=True)
                if value != 0
            ]
    return found
