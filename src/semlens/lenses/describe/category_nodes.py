"""Categories of a concept set as a tree, and how many components each of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from semlens.lenses.compare.labels_and_scores import first_occurrences
from semlens.lenses.concepts import ConceptSet


@dataclass(frozen=True)
class CategoryNode:
    """A category, or a concept (a leaf).

    Parameters
    ----------
    path
        Names from the outermost category to this one.
    concepts
        Indices in the concept set of all concepts below this node.
    """

    path: tuple[str, ...]
    leaf: bool
    concepts: tuple[int, ...]

    @property
    def text(self) -> str:
        """The path, joined by ``/``."""
        return "/".join(self.path)


def concept_nodes(concepts: ConceptSet) -> list[CategoryNode]:
    """Return the tree in pre-order: every category is followed by its content, in set order.

    If a set has valid and spurious concepts, these are the outermost categories. A name that
    recurs under another category counts under the first one only.
    """
    kinds = len({concept.kind for concept in concepts.concepts}) > 1
    first_index = first_occurrences(concepts)
    indices_of_node: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for index, concept in enumerate(concepts.concepts):
        if first_index[index] != index:
            continue
        path = (concept.kind, *concept.path) if kinds else concept.path
        for depth in range(1, len(path) + 1):
            indices_of_node.setdefault((path[:depth], False), []).append(index)
        indices_of_node.setdefault(((*path, concept.name), True), []).append(index)
    rank = {key: index for index, key in enumerate(indices_of_node)}

    def order(key: tuple[tuple[str, ...], bool]) -> list[int]:
        """Sort a node directly behind its ancestors, whatever the order in the set."""
        above = [rank[key[0][:depth], False] for depth in range(1, len(key[0]))]
        return [*above, rank[key]]

    return [
        CategoryNode(*key, tuple(indices_of_node[key]))
        for key in sorted(indices_of_node, key=order)
    ]


def recurring(concepts: ConceptSet) -> dict[str, list[str]]:
    """Return the categories of names that occur in several, the counted one first."""
    first_index = first_occurrences(concepts)
    categories: dict[str, list[str]] = {}
    for index, concept in enumerate(concepts.concepts):
        if first_index[index] != index:
            first = concepts.concepts[first_index[index]]
            categories.setdefault(concept.name, [first.category]).append(concept.category)
    return categories


def count_nodes(
    nodes: Sequence[CategoryNode], concept_of_component: Int64[np.ndarray, " n"], concepts: int
) -> list[dict[str, Any]]:
    """Count components per node: count, share of all n, share of the labelled, carried concepts.

    Parameters
    ----------
    concept_of_component
        int64[n], the concept of each component; -1 for none.
    concepts
        Number of concepts in the set.
    """
    counts = np.bincount(concept_of_component[concept_of_component >= 0], minlength=concepts)
    labelled = int(counts.sum())
    sizes = np.array([len(node.concepts) for node in nodes], np.int64)
    of_node = counts[np.concatenate([np.array(node.concepts, np.int64) for node in nodes])]
    first = np.cumsum(sizes) - sizes
    in_node, carried = np.add.reduceat(of_node, first), np.add.reduceat(of_node > 0, first)
    return [
        {
            "path": node.text,
            "name": node.path[-1],
            "depth": len(node.path),
            "leaf": node.leaf,
            "concepts": len(node.concepts),
            "carried": carrying,
            "count": count,
            "share": count / len(concept_of_component),
            "share_of_labelled": count / labelled if labelled else float("nan"),
        }
        for node, count, carrying in zip(nodes, in_node.tolist(), carried.tolist(), strict=True)
    ]
