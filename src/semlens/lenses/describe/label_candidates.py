"""Label candidates of components: the concepts that describe them best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from pydantic import computed_field

from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.chosen_method import PAPER_METHOD, ChosenMethod
from semlens.lenses.labelling.component_labels import PREFIX
from semlens.lenses.labelling.confidence import rival
from semlens.lenses.labelling.ranking import Ranking
from semlens.store.reader import Database


@dataclass(frozen=True)
class Candidate:
    """A concept that may label a component."""

    name: str
    category: str
    """Its categories, outermost first, joined by ``/``; empty if it has none."""
    score: float
    """By the labelling method."""


@dataclass(frozen=True)
class Candidates:
    """The best concepts of one component, best first, each name once."""

    candidates: tuple[Candidate, ...]
    margin: float | None
    """Score of the best name minus that of the next; None if there is no other name."""
    label: str | None
    """The best name, a mixed label, or None if the best score does not exceed the threshold."""
    threshold: float | None = None
    """The score that a label must exceed; None if the method has no threshold."""
    method: str = PAPER_METHOD
    """The labelling method."""
    confidence: float | None = None
    """Probability that the best name is right; None if it is unknown."""
    shown: float | None = None
    """Share of the examples that show the best name; None if it is unknown."""

    @computed_field
    @property
    def rival(self) -> str | None:
        """The second name, if it cannot be told which of the two is right."""
        confidence = np.nan if self.confidence is None else self.confidence
        names, scores = [c.name for c in self.candidates], [c.score for c in self.candidates]
        return rival(self.label, names, scores, confidence)


def ranked_candidates(
    ranked: Ranking,
    rows: Int64[np.ndarray, " n"],
    concepts: ConceptSet,
    method: ChosenMethod,
    top: int = 5,
) -> list[Candidates | None]:
    """Return the candidates of components with the label that ``label`` gives; None if unranked.

    Parameters
    ----------
    ranked
        A ranking of the concepts with at least ``top`` and two names, held against examples.
    top
        Maximum number; a name in several categories counts once.
    """
    names = [concept.name for concept in concepts.concepts]
    labels = ranked.labels(names)
    position_of = {row: position for position, row in enumerate(ranked.rows.tolist())}
    results: list[Candidates | None] = []
    for row in rows.tolist():
        position = position_of.get(row)
        if position is None:
            results.append(None)
            continue
        best = [
            Candidate(names[index], concepts.concepts[index].category, score)
            for index, score in ranked.best(position, names, max(top, 2))
        ]
        least = float(ranked.thresholds[position])
        results.append(
            Candidates(
                tuple(best[: max(top, 0)]),
                best[0].score - best[1].score if len(best) > 1 else None,
                labels[position],
                least if np.isfinite(least) else None,
                str(method),
                _known(ranked.confidence[position]),
                _known(ranked.shown[position]),
            )
        )
    return results


def _known(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


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
    names, values = record["candidates"], record["scores"]
    if not isinstance(names, np.ndarray | list) or not isinstance(values, np.ndarray | list):
        return None
    label, margin = record["label"], record["margin"]
    label = label if isinstance(label, str) else None
    items = [
        # the table has the category of the label only
        Candidate(str(name), str(record["category"]) if label == name else "", float(value))
        for name, value in zip(names, values, strict=True)
    ]
    has_margin = isinstance(margin, float) and np.isfinite(margin)
    threshold = float(record["threshold"])
    return Candidates(
        tuple(items[: max(top, 0)]),
        float(margin) if has_margin else None,
        label,
        threshold if np.isfinite(threshold) else None,
        record["method"],
        _known(record["confidence"]),
        _known(record.get("shown", np.nan)),
    )
