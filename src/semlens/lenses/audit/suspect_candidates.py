"""What may be a suspect: words and clusters, and which components match each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64

from semlens.lenses.audit.class_contrast import ConceptContrasts, standardised
from semlens.lenses.compare.component_sets import component_sets
from semlens.lenses.describe.clusters import best_concepts
from semlens.lenses.describe.concept_map import assign_clusters
from semlens.lenses.query_embedding import QueryEmbedding, alignment
from semlens.store.reader import Database
from semlens.types import Layers

MATCHES = 0.01
"""A component matches the words that align with it best: this share of the vocabulary."""
SHOWN_COMPONENTS = 5
"""Components that are named for each suspect."""

COLUMNS = [
    "class", "kind", "suspect", "share", "share_others", "contrast", "contrast_others", "p_value",
    "components",
]  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """Words (first) and clusters, m together, and which of the k components match each of them."""

    names: tuple[str, ...]
    words: int
    rows: Int64[np.ndarray, " k"]
    matches: Bool[np.ndarray, "k m"]

    def table(
        self,
        name: str,
        contrasts: ConceptContrasts,
        weight: Float64[np.ndarray, " k"],
        others: Float64[np.ndarray, " m"],
        own: set[str],
        top: int,
    ) -> pd.DataFrame:
        """Return the strongest candidates of a class, without its own words.

        Only those whose share is larger than for any other class: a word that no component
        matches can have a contrast, too, but there is nothing to look at.

        Parameters
        ----------
        weight
            Each component's share of the class's relevance.
        others
            The largest share of another class on each candidate.
        """
        shares = weight @ self.matches
        order = np.lexsort((-contrasts.contrast, contrasts.p_value))
        order = order[shares[order] > others[order]]
        records: list[dict[str, Any]] = []
        for j in [j for j in order.tolist() if self.names[j] not in own][:top]:
            matched = np.flatnonzero(self.matches[:, j])
            strongest = matched[np.argsort(-weight[matched], kind="stable")]
            records.append(
                {
                    "class": name,
                    "kind": "word" if j < self.words else "cluster",
                    "suspect": self.names[j],
                    "share": float(shares[j]),
                    "share_others": float(others[j]),
                    "contrast": float(contrasts.contrast[j]),
                    "contrast_others": float(contrasts.others[:, j].max()),
                    "p_value": float(contrasts.p_value[j]),
                    "components": self.rows[strongest[:SHOWN_COMPONENTS]],
                }
            )
        return pd.DataFrame(records, columns=COLUMNS)


def make_candidates(
    database: Database, layers: Layers, rows: list[Int64[np.ndarray, " _n"]], query: QueryEmbedding
) -> tuple[Candidates, list[Float64[np.ndarray, "_n m"]]]:
    """Return the candidates, and the standardised alignments of each layer's components."""
    names, clusters = _clusters(database, layers, query)
    aligned: list[np.ndarray] = []
    matched: list[np.ndarray] = []
    for one in rows:
        values = alignment(database.theta[one], query)
        member = clusters[one][:, None] == np.arange(len(names))
        aligned.append(np.hstack([standardised(values), standardised(member.astype(np.float32))]))
        matched.append(np.hstack([best_matches(values), member]))
    matches = np.concatenate(matched)
    names = (*query.names, *names)
    return Candidates(names, len(query.names), np.concatenate(rows), matches), aligned


def best_matches(values: Float[np.ndarray, "n q"]) -> Bool[np.ndarray, "n q"]:
    """Return for each component the words that align with it best, if they do at all."""
    count = max(1, round(MATCHES * values.shape[1]))
    least = np.partition(values, values.shape[1] - count, axis=1)[:, -count, None]
    return (values >= least) & (values > 0)


def _clusters(
    database: Database, layers: Layers, query: QueryEmbedding
) -> tuple[list[str], Int64[np.ndarray, " r"]]:
    """Return the clusters of the map, named by their best words, and that of each row."""
    components = component_sets([database], layers=layers)
    cluster = assign_clusters(components, layers)
    names: list[str] = []
    for number in range(int(cluster.max()) + 1):
        mean = components[0].theta[cluster == number].mean(0, keepdims=True)
        best = best_concepts(alignment(mean, query)[0], query.names, 0.0, 2)
        names.append(f"{', '.join(best) or 'cluster'} ({number})")
    of_row = np.full(database.manifest.rows, -1)
    of_row[components[0].rows] = cluster
    return names, of_row
