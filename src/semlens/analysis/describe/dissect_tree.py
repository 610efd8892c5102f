"""The categories and concepts of a set as a tree, and how many components each holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.analysis.compare.assign import first_places
from semlens.analysis.concepts import ConceptSet


@dataclass(frozen=True)
class Node:
    """A category, or at the tips a concept.

    Parameters
    ----------
    path
        Names from the outermost category to this one.
    concepts
        Places in the concept set of all concepts that it holds.
    """

    path: tuple[str, ...]
    leaf: bool
    concepts: tuple[int, ...]

    @property
    def text(self) -> str:
        """The path, joined by ``/``."""
        return "/".join(self.path)


def concept_nodes(concepts: ConceptSet) -> list[Node]:
    """Return the tree, every category before what it holds, in the order of the set.

    Valid and spurious concepts of one set get outermost categories of these names. A name
    that recurs under another category stays under the first.
    """
    kinds = len({concept.kind for concept in concepts.concepts}) > 1
    first = first_places(concepts)
    held: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for place, concept in enumerate(concepts.concepts):
        if first[place] != place:
            continue
        path = (concept.kind, *concept.path) if kinds else concept.path
        for depth in range(1, len(path) + 1):
            held.setdefault((path[:depth], False), []).append(place)
        held.setdefault(((*path, concept.name), True), []).append(place)
    number = {key: place for place, key in enumerate(held)}

    def order(key: tuple[tuple[str, ...], bool]) -> list[int]:
        """Put what a category holds right behind it, whatever the order in the set."""
        above = [number[key[0][:depth], False] for depth in range(1, len(key[0]))]
        return [*above, number[key]]

    return [Node(*key, tuple(held[key])) for key in sorted(held, key=order)]


def recurring(concepts: ConceptSet) -> dict[str, list[str]]:
    """Return the names that stand under several categories, and these, the counted one first."""
    first = first_places(concepts)
    found: dict[str, list[str]] = {}
    for place, concept in enumerate(concepts.concepts):
        if first[place] != place:
            before = concepts.concepts[first[place]]
            found.setdefault(concept.name, [before.category]).append(concept.category)
    return found


def count_nodes(
    nodes: Sequence[Node], best: Int64[np.ndarray, " n"], concepts: int
) -> list[dict[str, Any]]:
    """Count components by node: count, share of all n, share of the labelled, carried concepts.

    Parameters
    ----------
    best
        int64[n], the concept of each component; -1 for none.
    concepts
        The number of concepts of the set.
    """
    tally = np.bincount(best[best >= 0], minlength=concepts)
    labelled = int(tally.sum())
    rows: list[dict[str, Any]] = []
    for node in nodes:
        mine = tally[list(node.concepts)]
        count = int(mine.sum())
        rows.append(
            {
                "path": node.text,
                "name": node.path[-1],
                "depth": len(node.path),
                "leaf": node.leaf,
                "concepts": len(node.concepts),
                "carried": int((mine > 0).sum()),
                "count": count,
                "share": count / len(best),
                "share_of_labelled": count / labelled if labelled else float("nan"),
            }
        )
    return rows


def category_table(counts: pd.DataFrame, by: Sequence[str], depth: int) -> pd.DataFrame:
    """Return counts of the categories down to a depth, one column per database or layer."""
    frame = counts.loc[~counts["leaf"] & (counts["depth"] <= depth)]
    titles = ["/".join(parts) for parts in zip(*(frame[name] for name in by), strict=True)]
    wide = frame.assign(_column=titles).pivot(index="path", columns="_column", values="count")
    return wide.loc[list(dict.fromkeys(frame["path"])), list(dict.fromkeys(titles))]
