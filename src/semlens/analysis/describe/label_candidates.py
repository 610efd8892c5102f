"""Label candidates of vectors: the nearest concepts of a set (paper, 3.3 and 4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.analysis.concepts import ConceptSet
from semlens.analysis.query_embedding import QueryEmbedding, alignment
from semlens.analysis.saved_labels import PREFIX
from semlens.store.reader import Database


@dataclass(frozen=True)
class Candidate:
    """A concept that may label a component."""

    name: str
    category: str
    """Its categories, outermost first, joined by ``/``; empty if it has none."""
    alignment: float
    """Similarity with the concept minus similarity with the empty templates (Eq. 4)."""


@dataclass(frozen=True)
class Candidates:
    """The nearest concepts of one vector, best first, each name once."""

    candidates: tuple[Candidate, ...]
    margin: float | None
    """Alignment of the best name minus that of the next; None if there is no other name."""
    label: str | None
    """The best name, or None if its alignment does not exceed the threshold."""
    threshold: float | None = None
    """The alignment that a label must exceed; None if it is unknown (older saved labels)."""


def candidates(
    vectors: Float32[np.ndarray, "n d"],
    embedding: QueryEmbedding,
    concepts: ConceptSet,
    thresholds: Float32[np.ndarray, " n"],
    top: int = 5,
) -> list[Candidates]:
    """Rank the concepts of a set for each vector, as ``label`` does.

    Parameters
    ----------
    vectors
        Concept vectors of components, or means of some of their examples.
    embedding
        The vectors of the set: ``embed_concepts(database, concepts)``.
    thresholds
        What each label must exceed, see :func:`semlens.analysis.noise.label_thresholds`.
    top
        Maximum number; a name in several categories counts once, in the first.
    """
    items = concepts.concepts
    _, name_of = np.unique([concept.name for concept in items], return_inverse=True)
    ranked: list[Candidates] = []
    for values, least in zip(alignment(vectors, embedding), thresholds, strict=True):
        order = np.argsort(-values, kind="stable")
        # only the best entry of each name
        distinct = order[np.sort(np.unique(name_of[order], return_index=True)[1])]
        best = tuple(
            Candidate(items[i].name, items[i].category, float(values[i]))
            for i in distinct[: max(top, 0)]
        )
        margin = float(values[distinct[0]] - values[distinct[1]]) if len(distinct) > 1 else None
        label = items[distinct[0]].name if values[distinct[0]] > least else None
        ranked.append(Candidates(best, margin, label, float(least)))
    return ranked


def saved_candidates(
    database: Database, name: str, rows: Int64[np.ndarray, " n"], top: int = 5
) -> list[Candidates | None]:
    """Return the candidates of components from a saved label table; None if it lacks them."""
    table = database.load_analysis(PREFIX + name)
    if table is None:
        return [None] * len(rows)
    keys = ["layer", "index", "sign"]
    components = database.components.iloc[rows][keys].reset_index(drop=True)
    merged: pd.DataFrame = components.merge(table, on=keys, how="left")
    return [_from_record(record, top) for record in merged.to_dict("records")]


def _from_record(record: dict[str, Any], top: int) -> Candidates | None:
    names, values = record["candidates"], record["alignments"]
    if not isinstance(names, np.ndarray | list) or not isinstance(values, np.ndarray | list):
        return None
    label, margin = record["label"], record["margin"]
    label = label if isinstance(label, str) else None
    items = [
        # the table has the category of the label only
        Candidate(str(name), str(record["category"]) if label and not rank else "", float(value))
        for rank, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    has_margin = isinstance(margin, float) and np.isfinite(margin)
    threshold = record.get("threshold")
    return Candidates(
        tuple(items[: max(top, 0)]),
        float(margin) if has_margin else None,
        label,
        None if threshold is None else float(threshold),
    )
