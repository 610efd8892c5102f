"""Labels and scores of several sets of components, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.analysis.compare.component_sets import ComponentSet
from semlens.analysis.concepts import Concepts, ConceptSet, as_concepts
from semlens.analysis.query_embedding import QueryEmbedding, alignment, embed_concepts
from semlens.analysis.scores import MEASURES, scores
from semlens.settings import setting
from semlens.store.reader import Database

CHUNK = 8192


@dataclass(frozen=True, eq=False)
class LabelAssignment:
    """Who aligns best with whom, of n components and q concepts.

    Parameters
    ----------
    concept
        int64[n], the best concept of each component; -1 at or below the threshold.
    alignment
        float32[n], its alignment, above the threshold or not.
    component
        int64[q], the best component of each concept, as a place in the set.
    reached
        float32[q], its alignment.
    """

    concept: Int64[np.ndarray, " n"]
    alignment: Float32[np.ndarray, " n"]
    component: Int64[np.ndarray, " q"]
    reached: Float32[np.ndarray, " q"]


def first_occurrences(concepts: ConceptSet) -> Int64[np.ndarray, " q"]:
    """Return for each concept the place where its name (and images) stand first."""
    seen: dict[object, int] = {}
    places = [
        seen.setdefault((one.name, one.images), place)
        for place, one in enumerate(concepts.concepts)
    ]
    return np.asarray(places, np.int64)


def assign_labels(
    one: ComponentSet,
    probe: QueryEmbedding,
    concepts: ConceptSet,
    threshold: float,
    chunk: int = CHUNK,
) -> LabelAssignment:
    """Label components as ``label`` does, and find the nearest component of each concept.

    A concept that stands under several categories is the first of them.
    """
    count, first = len(concepts), first_occurrences(concepts)
    best = np.zeros(len(one), np.int64)
    value = np.zeros(len(one), np.float32)
    component = np.zeros(count, np.int64)
    reached = np.full(count, -np.inf, np.float32)
    for start in range(0, len(one), chunk):
        values = alignment(one.database.theta[one.rows[start : start + chunk]], probe)
        best[start : start + chunk] = values.argmax(1)
        value[start : start + chunk] = values.max(1)
        component = np.where(values.max(0) > reached, values.argmax(0) + start, component)
        reached = np.maximum(reached, values.max(0))
    return LabelAssignment(np.where(value > threshold, first[best], -1), value, component, reached)


SHARED = "in every set"
UNREADABLE = "There are no labels: the databases' embedder reads no texts."
OptionalConcepts = Annotated[
    Concepts | None,
    setting(
        "File, folder or name of a bundled concept set for labels, or none; given again, sets are "
        "joined."
    ),
]
"""Concepts wherever labels can be left out."""


def embed_labels(
    database: Database, concepts: Concepts | None
) -> tuple[ConceptSet, QueryEmbedding] | None:
    """Return concepts and their vectors; None where the embedder cannot read them."""
    if concepts is None:
        return None
    chosen = as_concepts(concepts)
    readable = database.embedder.has_text or all(concept.images for concept in chosen.concepts)
    return (chosen, embed_concepts(database, chosen)) if readable else None


def label_sets(
    sets: Sequence[ComponentSet], concepts: Concepts | None, threshold: float
) -> tuple[list[list[str | None]] | None, pd.DataFrame | None, list[str]]:
    """Return the labels of each set, their counts, and a notice where there can be none."""
    known = embed_labels(sets[0].database, concepts)
    if known is None:
        return None, None, [UNREADABLE] if concepts is not None else []
    chosen, probe = known
    names = [concept.name for concept in chosen.concepts]
    best = [assign_labels(one, probe, chosen, threshold).concept for one in sets]
    labels = [[names[place] if place >= 0 else None for place in mine] for mine in best]
    return labels, label_counts(sets, labels, chosen), []


def label_counts(
    sets: Sequence[ComponentSet], labels: Sequence[list[str | None]], concepts: ConceptSet
) -> pd.DataFrame:
    """Count the labels of each set: set, label, category, count, share, where.

    A row for each set and each label that some set has, in the order of the concept set; the
    share is of all the set's components. A name that stands under several categories counts
    as one label, of the first.
    """
    counts = pd.DataFrame([pd.Series(found, dtype=object).value_counts() for found in labels]).T
    categories: dict[str, str] = {}
    for concept in concepts.concepts:
        categories.setdefault(concept.name, concept.category)
    counts = counts.reindex([name for name in categories if name in counts.index]).fillna(0)
    counts = counts.astype(np.int64).set_axis(range(len(sets)), axis=1)
    frame = pd.DataFrame(
        {"label": counts.index, "category": [categories[name] for name in counts.index]}
    )
    has = counts.to_numpy() > 0
    only = [f"only in {sets[place].name}" for place in has.argmax(1)]
    number = has.sum(1)
    where = np.where(number == 1, only, np.where(number == len(sets), SHARED, "in some sets"))
    frames = [
        frame.assign(
            set=one.name,
            count=counts[place].to_numpy(),
            share=counts[place].to_numpy() / len(one),
            where=where,
        )
        for place, one in enumerate(sets)
    ]
    table = pd.concat(frames, ignore_index=True)
    return table.reindex(columns=["set", "label", "category", "count", "share", "where"])


def set_scores(one: ComponentSet) -> pd.DataFrame:
    """Return the interpretability measures of a set's components, in their order."""
    found = scores(one.database, one.layers).frame
    return found.set_axis(one.database.rows(one.layers)).loc[one.rows].reset_index(drop=True)


def score_table(sets: Sequence[ComponentSet]) -> pd.DataFrame:
    """Return mean and quartiles of each measure of each set.

    Redundancy is of the component in its whole layer, whatever part of it is compared.
    """
    columns = {
        "count": "components",
        "mean": "mean",
        "25%": "lower_quartile",
        "50%": "median",
        "75%": "upper_quartile",
    }
    tables = {one.name: set_scores(one)[list(MEASURES)].describe().T for one in sets}
    joined: Any = pd.concat(tables, names=["set", "measure"])
    table = joined[list(columns)].rename(columns=columns)
    return table.astype({"components": np.int64}).reset_index()
