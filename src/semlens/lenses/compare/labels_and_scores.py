"""Labels and scores of several sets of components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64

from semlens.lenses.compare.component_sets import ComponentSet
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.chosen_method import ChosenMethod, choose_method
from semlens.lenses.labelling.mixed import check_labels
from semlens.lenses.labelling.ranking import BestComponents, best_components, rank_words
from semlens.lenses.labelling.scored_blocks import scored_blocks, thresholds
from semlens.lenses.query_embedding import QueryEmbedding, embed_concepts
from semlens.lenses.scores import MEASURES, scores
from semlens.store.reader import Database


@dataclass(frozen=True, eq=False)
class LabelAssignment:
    """The best concept of each of n components, and the best component of each of q concepts.

    Parameters
    ----------
    concept
        int64[n], index of each component's best concept; -1 if not above the threshold, or less
        likely right than asked for.
    score
        float32[n], score of the best concept, whether above the threshold or not.
    threshold
        float32[n], the threshold of each component.
    doubtful
        bool[n], whether it has no label only because its confidence is too small, or it is mixed.
    component
        int64[q], index of each concept's best component in the set.
    concept_score
        float32[q], score of each concept for its best component.
    """

    concept: Int64[np.ndarray, " n"]
    score: Float32[np.ndarray, " n"]
    threshold: Float32[np.ndarray, " n"]
    doubtful: Bool[np.ndarray, " n"]
    component: Int64[np.ndarray, " q"]
    concept_score: Float32[np.ndarray, " q"]


def first_occurrences(concepts: ConceptSet) -> Int64[np.ndarray, " q"]:
    """Return for each concept the index of the first one with the same name and images."""
    first: dict[object, int] = {}
    indices = [
        first.setdefault((concept.name, concept.images), index)
        for index, concept in enumerate(concepts.concepts)
    ]
    return np.asarray(indices, np.int64)


def assign_labels(
    components: ComponentSet,
    probe: QueryEmbedding,
    concepts: ConceptSet,
    method: ChosenMethod,
    threshold: float | None,
    least_confidence: float = 0.0,
) -> LabelAssignment:
    """Label components as ``label`` does, and find the best component of each concept.

    A concept that is in several categories is assigned to the first one.

    Parameters
    ----------
    least_confidence
        Labels that are less likely right than this do not count, nor do mixed ones, unless it is
        0. Those of the concept vectors, which have no confidence, all count.
    """
    database, rows = components.database, components.rows
    if method.uses_concept_vectors:  # one product serves both, and takes no longer than to read
        concept, score = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float32)
        best = BestComponents.none(len(concepts))
        for block in scored_blocks(database, rows, probe, method):
            values, place = block.scores, np.arange(len(rows))[block.place]
            concept[place] = values.argmax(1)
            score[place] = values[np.arange(len(values)), concept[place]]
            best.take(place[values.argmax(0)], values.max(0))
        least = thresholds(database, rows, probe, method, threshold)
        doubtful = np.zeros(len(rows), bool)
    else:
        ranked = rank_words(database, rows, probe, method, threshold=threshold)
        concept, score, least = ranked.concept[:, 0], ranked.score[:, 0], ranked.thresholds
        best = best_components(database, rows, probe, method)
        doubtful = (score > least) & (ranked.confidence < least_confidence)  # NaN is not less
        if least_confidence > 0:
            doubtful |= check_labels(database, ranked, probe, method).is_mixed
    return LabelAssignment(
        np.where((score > least) & ~doubtful, first_occurrences(concepts)[concept], -1),
        score,
        least,
        doubtful,
        best.place,
        best.score,
    )


SHARED = "in every set"
UNREADABLE = "There are no labels: the databases' embedder does not embed texts."


def embed_labels(database: Database, concepts: ConceptSet | None) -> QueryEmbedding | None:
    """Return the vectors of concepts; None if there are none or they cannot be embedded."""
    if concepts is None:
        return None
    readable = database.embedder.has_text or all(concept.images for concept in concepts.concepts)
    return embed_concepts(database, concepts) if readable else None


def label_sets(
    sets: Sequence[ComponentSet], concepts: ConceptSet | None, threshold: float | None
) -> tuple[list[list[str | None]] | None, pd.DataFrame | None, list[str]]:
    """Return the labels of each set, their counts, and a notice if there can be no labels.

    All sets are labelled by the same method.
    """
    probe = embed_labels(sets[0].database, concepts)
    if concepts is None or probe is None:
        return None, None, [] if concepts is None else [UNREADABLE]
    method = choose_method([s.database for s in sets], None, len(concepts))
    labels: list[list[str | None]] = []
    for s in sets:
        ranked = rank_words(s.database, s.rows, probe, method, threshold=threshold)
        labels.append(check_labels(s.database, ranked, probe, method).labels(probe.names))
    return labels, label_counts(sets, labels, concepts), []


def label_counts(
    sets: Sequence[ComponentSet], labels: Sequence[list[str | None]], concepts: ConceptSet
) -> pd.DataFrame:
    """Count the labels of each set: set, label, category, count, share, where.

    One row for each set and each label that occurs in any set, in the order of the concept set;
    mixed labels are not counted.
    ``share`` is the share of all components of the set. A name in several categories counts as
    one label, of the first category.
    """
    counts = pd.DataFrame(
        [pd.Series(set_labels, dtype=object).value_counts() for set_labels in labels]
    ).T
    categories: dict[str, str] = {}
    for concept in concepts.concepts:
        categories.setdefault(concept.name, concept.category)
    counts = counts.reindex([name for name in categories if name in counts.index]).fillna(0)
    counts = counts.astype(np.int64).set_axis(range(len(sets)), axis=1)
    frame = pd.DataFrame(
        {"label": counts.index, "category": [categories[name] for name in counts.index]}
    )
    occurs = counts.to_numpy() > 0
    only_in = [f"only in {sets[index].name}" for index in occurs.argmax(1)]
    set_counts = occurs.sum(1)
    where = np.where(
        set_counts == 1, only_in, np.where(set_counts == len(sets), SHARED, "in some sets")
    )
    frames = [
        frame.assign(
            set=components.name,
            count=counts[index].to_numpy(),
            share=counts[index].to_numpy() / len(components),
            where=where,
        )
        for index, components in enumerate(sets)
    ]
    table = pd.concat(frames, ignore_index=True)
    return table.reindex(columns=["set", "label", "category", "count", "share", "where"])


def set_scores(components: ComponentSet) -> pd.DataFrame:
    """Return the interpretability scores of a set's components, in their order."""
    rows = components.database.rows(components.layers)
    frame = scores(components.database, components.layers).frame.set_axis(rows)
    return frame.loc[components.rows].reset_index(drop=True)


def score_table(sets: Sequence[ComponentSet]) -> pd.DataFrame:
    """Return mean and quartiles of each measure of each set.

    Redundancy is measured in the whole layer, even if only part of it is compared.
    """
    columns = {
        "count": "components",
        "mean": "mean",
        "25%": "lower_quartile",
        "50%": "median",
        "75%": "upper_quartile",
    }
    tables = {
        components.name: set_scores(components)[list(MEASURES)].describe().T for components in sets
    }
    joined: Any = pd.concat(tables, names=["set", "measure"])
    table = joined[list(columns)].rename(columns=columns)
    return table.astype({"components": np.int64}).reset_index()
