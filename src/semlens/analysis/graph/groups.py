"""The parts of an attribution graph: groups of components that share a label, and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from semlens.analysis.label import Labels
from semlens.draw.graph_layout import GraphEdge, GraphNode
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Component

TARGET = "target"
"""The id of the node that stands for the class."""

UNLABELLED = "?"

Named = Labels | Mapping[Component, str] | None
"""Labels of components; those without are grouped as "?". None makes each a group of its own."""


def keep_groups(
    database: Database,
    entry: LayerEntry,
    share: Float[Tensor, "s k"],
    labels: Named,
    minimum: float,
    top: int | None,
) -> dict[str, list[int]]:
    """Return the kept components' places in their layer by label, largest share first.

    Parameters
    ----------
    share
        Of every component of the layer, sample by sample.
    minimum, top
        Components whose share reaches ``minimum`` on some sample, and of those the ``top``
        strongest.
    """
    strength = share.abs().amax(0)
    order = strength.argsort(descending=True, stable=True)[:top]
    found: dict[str, list[int]] = {}
    for place in order.tolist():
        if float(strength[place]) < minimum:
            continue
        component = database.component(entry.first + place)
        if labels is None:
            label = f"#{'-' if component.sign < 0 else ''}{component.index}"
        else:
            known = labels.of(component) if isinstance(labels, Labels) else labels.get(component)
            label = known or UNLABELLED
        found.setdefault(label, []).append(place)
    return found


def make_node(
    database: Database,
    entry: LayerEntry,
    label: str,
    places: Sequence[int],
    share: Float[Tensor, "s k"],
) -> GraphNode:
    """Return the node of some components of a layer."""
    together = share[:, list(places)].sum(1)
    names = tuple(str(database.component(entry.first + place)) for place in places)
    largest = float(together[together.abs().argmax()])
    identity = f"{entry.name}/{label}"
    return GraphNode(identity, entry.name, label, names, float(together.mean()), largest)


def make_edges(
    names: Sequence[str],
    of: Mapping[str, Sequence[GraphNode]],
    weight: Mapping[str, Float[Tensor, "a b"]],
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
    pairs = list(zip(names, names[1:], strict=False))
    for lower, upper in reversed(pairs):
        if lower not in weight:
            continue
        values = weight[lower].tolist()
        found += [
            GraphEdge(source.id, target.id, values[a][b])
            for a, source in enumerate(of[upper])
            for b, target in enumerate(of[lower])
            if values[a][b] != 0
        ]
    return found
