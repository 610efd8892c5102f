"""Labels of clusters of components: the words that describe their components best on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64

from semlens.lenses.compare.component_sets import ComponentSet
from semlens.lenses.compare.labels_and_scores import embed_labels
from semlens.lenses.concepts import Concepts
from semlens.lenses.describe.clusters import best_concepts
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
    concepts: Concepts | None,
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
    embedded = embed_labels(sets[0].database, concepts) if count else None
    if embedded is None:
        return ClusterScores((), np.zeros((count, 0)), np.zeros(count), sizes)
    names = embedded[1].names
    chosen = choose_method([s.database for s in sets], method, len(names))
    sums, least = np.zeros((count, len(names))), np.zeros(count)
    start = 0
    for s in sets:
        member = cluster[start : start + len(s)]
        start += len(s)
        for layer, place in layer_places(s.database, s.rows):
            rows, inside = s.rows[place], member[place]
            sums += _sums(s.database, layer, rows, inside, count, embedded[1], chosen)
        least += _one_hot(member, count) @ thresholds(
            s.database, s.rows, embedded[1], chosen, threshold
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
