"""Labels of clusters of components: the words that describe their components best on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64
from scipy.spatial import KDTree

from semlens.lenses.compare.component_sets import ComponentSet
from semlens.lenses.compare.labels_and_scores import embed_labels
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.clusters import best_concepts, medoid
from semlens.lenses.labelling.chosen_method import ChosenMethod, choose_method
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.scored_blocks import (
    cached_scores,
    layer_places,
    scored_blocks,
    thresholds,
)
from semlens.lenses.query_embedding import QueryEmbedding
from semlens.store.reader import Database


@dataclass(frozen=True, eq=False)
class ClusterScores:
    """How well each concept describes the components of each cluster.

    Scores add up: those of several clusters together are those of one cluster with all of their
    components.

    Parameters
    ----------
    names
        Names of the concepts; empty if there are none.
    sums, thresholds
        Sums over the components: of their scores, and of the thresholds of a label.
    sizes
        Numbers of components.
    """

    names: Sequence[str]
    sums: Float64[np.ndarray, "c q"]
    thresholds: Float64[np.ndarray, " c"]
    sizes: Int64[np.ndarray, " c"]

    def grouped(self, group: Int64[np.ndarray, " c"]) -> ClusterScores:
        """Return the scores of groups of clusters; the groups are numbered from 0."""
        member = np.eye(int(group.max(initial=-1)) + 1)[group].T
        sizes = np.rint(member @ self.sizes).astype(np.int64)
        return ClusterScores(self.names, member @ self.sums, member @ self.thresholds, sizes)

    def labels(self, cluster: int, top: int) -> dict[str, float]:
        """Return the concepts with the largest mean scores above the mean threshold, best first.

        The mean score is, for a vote of examples, the vote of the examples of all components,
        for SemanticLens nearly the alignment of the mean of their vectors (paper, D.2).
        """
        size = max(int(self.sizes[cluster]), 1)
        means = (self.sums[cluster] / size).astype(np.float32)
        return best_concepts(means, self.names, float(self.thresholds[cluster]) / size, top)


def score_clusters(
    sets: Sequence[ComponentSet],
    cluster: Int64[np.ndarray, " n"],
    concepts: ConceptSet | None,
    method: str | Labeller | None = None,
    threshold: float | None = None,
) -> ClusterScores:
    """Return how well each concept describes each cluster.

    Parameters
    ----------
    cluster
        int64[n], the cluster of each component of all sets; -1 for none.
    concepts
        None for no labels. There are none either if the embedder cannot embed them.
    """
    count = int(cluster.max(initial=-1)) + 1
    sizes = np.bincount(cluster[cluster >= 0], minlength=count)
    embedding = embed_labels(sets[0].database, concepts) if count else None
    if embedding is None:
        return ClusterScores((), np.zeros((count, 0)), np.zeros(count), sizes)
    names = embedding.names
    chosen = choose_method([s.database for s in sets], method, len(names))
    sums, least = np.zeros((count, len(names))), np.zeros(count)
    start = 0
    for s in sets:
        member = cluster[start : start + len(s)]
        start += len(s)
        for layer, place in layer_places(s.database, s.rows):
            rows, inside = s.rows[place], member[place]
            sums += _sums(s.database, layer, rows, inside, count, embedding, chosen)
        least += _one_hot(member, count) @ thresholds(
            s.database, s.rows, embedding, chosen, threshold
        )
    return ClusterScores(names, sums, least, sizes)


def _sums(
    database: Database,
    layer: str,
    rows: Int64[np.ndarray, " n"],
    member: Int64[np.ndarray, " n"],
    count: int,
    embedding: QueryEmbedding,
    method: ChosenMethod,
) -> Float32[np.ndarray, "c q"]:
    """Return the summed scores of each cluster's components in a layer; kept in the database."""

    def compute() -> pd.DataFrame:
        sums = np.zeros((count, len(embedding.names)), np.float32)
        for block in scored_blocks(database, rows, embedding, method):
            sums += _one_hot(member[block.place], count) @ block.scores
        return pd.DataFrame({"sum": sums.ravel()})

    key = [count, rows.tolist(), member.tolist()]
    table = cached_scores(database, "label-clusters", layer, embedding, method, key, compute)
    return table["sum"].to_numpy(np.float32).reshape(count, -1)


def _one_hot(member: Int64[np.ndarray, " b"], count: int) -> Float32[np.ndarray, "c b"]:
    """Return 1 where a component is in a cluster."""
    return (np.arange(count)[:, None] == member).astype(np.float32)


CONTACT = 0.1
"""Share of a cluster's components that may lie nearer than the gap: a few outliers."""
_FURTHER_LABELS = 2


def side_by_side(first: Float32[np.ndarray, "n 2"], second: Float32[np.ndarray, "m 2"]) -> bool:
    """Whether the gap between two sets of points is smaller than the wider one is across.

    The gap is the first decile of the distances of a set's points from the nearest point of the
    other one, the larger of both directions; the width is twice the median distance from the
    medoid.
    """
    distances = (KDTree(a).query(b)[0] for a, b in ((first, second), (second, first)))
    gap = max(float(np.quantile(values, CONTACT)) for values in distances)
    return gap < max(_width(first), _width(second))


def _width(points: Float32[np.ndarray, "n 2"]) -> float:
    middle = points[medoid(points, np.arange(len(points)))]
    return 2 * float(np.median(np.hypot(*(points - middle).T)))


def merge_clusters(
    positions: Float32[np.ndarray, "n 2"],
    cluster: Int64[np.ndarray, " n"],
    scores: ClusterScores,
    top: int,
) -> tuple[Int64[np.ndarray, " c"], list[dict[str, float]]]:
    """Return the place of each cluster, and the labels of each place; 0 is the largest place.

    Parameters
    ----------
    cluster
        int64[n], the cluster of each component; -1 for none.
    top
        Labels of a place at most; more where two places would have the same labels otherwise.
    """
    count = len(scores.sizes)
    group = np.arange(count)
    while True:
        grouped = scores.grouped(group)
        labels = [list(grouped.labels(g, top)) for g in range(len(grouped.sizes))]
        member = np.where(cluster >= 0, np.append(group, -1)[cluster], -1)
        points = [positions[member == g] for g in range(len(labels))]
        root = np.arange(len(labels))
        for a, of_a in enumerate(labels):
            for b in range(a):
                of_b = labels[b]
                same = of_a and of_b and of_a[0] in of_b and of_b[0] in of_a
                if same and root[a] != root[b] and side_by_side(points[a], points[b]):
                    root[root == root[a]] = root[b]
        merged = np.unique(root, return_inverse=True)[1]
        if len(set(merged.tolist())) == len(labels):
            break
        group = merged[group]
    order = np.lexsort((np.unique(group, return_index=True)[1], -grouped.sizes))
    place = np.argsort(order)[group]
    return place, _distinct_labels(scores.grouped(place), top)


def _distinct_labels(scores: ClusterScores, top: int) -> list[dict[str, float]]:
    """Return the labels of each place; further ones where a larger place has the same."""
    taken: set[tuple[str, ...]] = set()
    result: list[dict[str, float]] = []
    for place in range(len(scores.sizes)):
        options: list[Mapping[str, float]] = [
            scores.labels(place, top + further) for further in range(_FURTHER_LABELS + 1)
        ]
        chosen = next((option for option in options if tuple(option) not in taken), options[0])
        taken.add(tuple(chosen))
        result.append(dict(chosen))
    return result
