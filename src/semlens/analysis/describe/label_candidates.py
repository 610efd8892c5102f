"""Label candidates of single vectors: the nearest concepts of a set (paper, 3.3 and 4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.analysis.concepts import ConceptSet
from semlens.analysis.label import THRESHOLD
from semlens.analysis.query_embedding import QueryEmbedding, alignment
from semlens.analysis.saved_labels import PREFIX
from semlens.store.reader import Database


@dataclass(frozen=True)
class Candidate:
    """A concept that might name a component."""

    name: str
    category: str
    """Its categories, outermost first, joined by ``/``; empty where it has none."""
    alignment: float
    """Similarity with the concept less similarity with the empty templates (Eq. 4)."""


@dataclass(frozen=True)
class Candidates:
    """The nearest concepts of one vector, best first, each name once."""

    candidates: tuple[Candidate, ...]
    margin: float | None
    """Alignment of the best less that of the next other name; None where there is none."""
    label: str | None
    """The best name, or None if it does not beat the threshold."""


def candidates(
    vectors: Float32[np.ndarray, "n d"],
    probe: QueryEmbedding,
    concepts: ConceptSet,
    top: int = 5,
    threshold: float = THRESHOLD,
) -> list[Candidates]:
    """Rank a set's concepts for each vector, as ``label`` does.

    Parameters
    ----------
    vectors
        Concept vectors of components, or means of some of their examples.
    probe
        The set's vectors: ``concept_probe(embedder, concepts)``.
    top
        How many at most; a name that stands in several categories counts once, in the first.
    """
    named = concepts.concepts
    _, name_of = np.unique([concept.name for concept in named], return_inverse=True)
    made: list[Candidates] = []
    for values in alignment(vectors, probe):
        order = np.argsort(-values, kind="stable")
        # of each name the first in order
        once = order[np.sort(np.unique(name_of[order], return_index=True)[1])]
        best = tuple(
            Candidate(named[i].name, named[i].category, float(values[i]))
            for i in once[: max(top, 0)]
        )
        margin = float(values[once[0]] - values[once[1]]) if len(once) > 1 else None
        first = named[once[0]].name if values[once[0]] > threshold else None
        made.append(Candidates(best, margin, first))
    return made


def saved_candidates(
    database: Database, name: str, rows: Int64[np.ndarray, " n"], top: int = 5
) -> list[Candidates | None]:
    """Return what ``Labels.save`` kept of some components; None for those without."""
    table = database.load_analysis(PREFIX + name)
    if table is None:
        return [None] * len(rows)
    who = ["layer", "index", "sign"]
    mine = database.components.iloc[rows][who].reset_index(drop=True)
    found: pd.DataFrame = mine.merge(table, on=who, how="left")
    return [_kept(record, top) for record in found.to_dict("records")]


def _kept(record: dict[str, Any], top: int) -> Candidates | None:
    names, values = record["candidates"], record["alignments"]
    if not isinstance(names, np.ndarray | list) or not isinstance(values, np.ndarray | list):
        return None
    label, margin = record["label"], record["margin"]
    label = label if isinstance(label, str) else None
    found = [
        # the category was kept of the label only
        Candidate(str(name), str(record["category"]) if label and not place else "", float(value))
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    known = isinstance(margin, float) and np.isfinite(margin)
    return Candidates(tuple(found[: max(top, 0)]), float(margin) if known else None, label)
