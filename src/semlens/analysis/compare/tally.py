"""Labels and scores of several sets of components, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.analysis.compare.assign import assign
from semlens.analysis.compare.sets import ComponentSet
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.probe import Probe
from semlens.analysis.scores import MEASURES, scores

SHARED = "in every set"


def set_labels(
    one: ComponentSet, probe: Probe, concepts: ConceptSet, threshold: float
) -> list[str | None]:
    """Return the label of each component of a set, or None."""
    names = [concept.name for concept in concepts.concepts]
    best = assign(one, probe, concepts, threshold).concept
    return [names[concept] if concept >= 0 else None for concept in best]


def label_counts(
    sets: Sequence[ComponentSet], labels: Sequence[list[str | None]], concepts: ConceptSet
) -> pd.DataFrame:
    """Count the labels of each set: set, label, category, count, share, where.

    A row for each set and each label that some set has, in the order of the concept set; the
    share is of all the set's components. A name that stands under several categories counts
    as one label, of the first.
    """
    counts = pd.DataFrame(
        {place: pd.Series(found, dtype=object).value_counts() for place, found in enumerate(labels)}
    )
    categories: dict[str, str] = {}
    for concept in concepts.concepts:
        categories.setdefault(concept.name, concept.category)
    counts = counts.reindex([name for name in categories if name in counts.index])
    counts = counts.fillna(0).astype(np.int64)
    where = [_where(row > 0, sets) for row in counts.to_numpy()]
    frames = [
        pd.DataFrame(
            {
                "set": one.name,
                "label": counts.index.to_list(),
                "category": [categories[name] for name in counts.index],
                "count": counts[place].to_numpy(),
                "share": counts[place].to_numpy() / len(one),
                "where": where,
            }
        )
        for place, one in enumerate(sets)
    ]
    return pd.concat(frames, ignore_index=True)


def _where(has: Any, sets: Sequence[ComponentSet]) -> str:
    if has.all():
        return SHARED
    if has.sum() == 1:
        return f"only in {sets[int(np.argmax(has))].name}"
    return "in some sets"


def set_scores(one: ComponentSet) -> pd.DataFrame:
    """Return the interpretability measures of a set's components, in their order."""
    found = scores(one.database, one.layers).frame
    all_rows: Int64[np.ndarray, " n"] = one.database.rows(one.layers)
    order = np.argsort(all_rows)
    return found.iloc[order[np.searchsorted(all_rows[order], one.rows)]].reset_index(drop=True)


def score_table(sets: Sequence[ComponentSet]) -> pd.DataFrame:
    """Return mean and quartiles of each measure of each set.

    Redundancy is of the component in its whole layer, whatever part of it is compared.
    """
    rows: list[dict[str, Any]] = []
    for one in sets:
        found = set_scores(one)
        for measure in MEASURES:
            values = found[measure].dropna()
            low, middle, high = values.quantile([0.25, 0.5, 0.75])
            rows.append(
                {
                    "set": one.name,
                    "measure": measure,
                    "components": len(values),
                    "mean": values.mean(),
                    "lower_quartile": low,
                    "median": middle,
                    "upper_quartile": high,
                }
            )
    return pd.DataFrame(rows)
