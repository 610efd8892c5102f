"""Two models on a joint map: shared concepts overlap, unique ones lie apart (paper, E)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64

from semlens.errors import RecipeError
from semlens.lenses.compare.compare import compare
from semlens.lenses.compare.comparison import Comparison
from semlens.lenses.describe.concept_map import concept_map
from semlens.lenses.labelling.component_labels import saved_names
from semlens.store.reader import Database

KINDS = ("matched", "only_first", "only_second")
"""Pairs that are each other's nearest, and components without a counterpart in the other model."""


@dataclass(frozen=True, eq=False)
class MappedModel:
    """The components of one of two models.

    Parameters
    ----------
    rows
        int64[n], rows of the components in their database.
    positions
        float32[n 2], positions on the joint map.
    nearest
        int64[n], rows of the nearest components in the other database.
    similarity
        float32[n], cosines with the nearest components.
    mutual
        bool[n], whether each component is also the nearest of its nearest.
    unmatched
        bool[n], whether the cosine with the nearest is below ``threshold``.
    set_similarity
        Set similarity with the other model (Eq. 5).
    """

    name: str
    database: Database
    rows: Int64[np.ndarray, " n"]
    positions: Float32[np.ndarray, "n 2"]
    nearest: Int64[np.ndarray, " n"]
    similarity: Float32[np.ndarray, " n"]
    mutual: Bool[np.ndarray, " n"]
    unmatched: Bool[np.ndarray, " n"]
    threshold: float
    set_similarity: float


@dataclass(frozen=True, eq=False)
class JointMap:
    """Two models on a joint map, and how their components correspond.

    Parameters
    ----------
    notes
        Differences between the databases other than the model.
    """

    first: MappedModel
    second: MappedModel
    notes: tuple[str, ...]

    def pairs(self, kind: str) -> pd.DataFrame:
        """Return pairs of components: component, other, similarity, label, other_label.

        ``component`` belongs to the first model, or to the second for ``only_second``. Matched
        pairs are sorted from most to least similar, other components from least to most similar.

        Raises
        ------
        RecipeError
            If the kind is unknown.
        """
        if kind not in KINDS:
            raise RecipeError(
                f"Unknown kind of pairs '{kind}'.",
                f"Expected {', '.join(KINDS)}.",
                "Choose one of them.",
            )
        models = self.first, self.second
        model, other = models[::-1] if kind == "only_second" else models
        selected = np.flatnonzero(model.mutual if kind == "matched" else model.unmatched)
        sign = -1 if kind == "matched" else 1
        selected = selected[np.lexsort((model.rows[selected], sign * model.similarity[selected]))]
        rows, other_rows = model.rows[selected], model.nearest[selected]
        return pd.DataFrame(
            {
                "component": model.database.names(rows),
                "other": other.database.names(other_rows),
                "similarity": model.similarity[selected],
                "label": _labels(model.database, rows),
                "other_label": _labels(other.database, other_rows),
            }
        )


def _labels(database: Database, rows: Int64[np.ndarray, " n"]) -> pd.Series:
    names = saved_names(database)
    labels = [None] * len(rows) if names is None else names.frame["label"].to_numpy()[rows]
    return pd.Series(labels, dtype=object)  # otherwise pandas may convert None to NaN


def joint_map(first: Database, second: Database) -> JointMap:
    """Lay out two models on a joint map, and find the nearest counterpart of each component.

    The map is cached in the first database. The thresholds are those of ``db.compare``:
    a component is unmatched if the cosine with its nearest in the other model is lower than for
    95 % of the components of its own model with their nearest in the same model.

    Raises
    ------
    StaleError
        If the databases have different embedders.
    RecipeError
        If both are the same, or one has no component with a vector.
    """
    comparison = compare(first, second, concepts=None, scores=False)
    layout = concept_map(first, second, concepts=None).frame
    positions, count = layout[["x", "y"]].to_numpy(np.float32), len(comparison.sets[0])
    return JointMap(
        _mapped_model(comparison, 0, positions[:count]),
        _mapped_model(comparison, 1, positions[count:]),
        comparison.notes,
    )


def _mapped_model(
    comparison: Comparison, index: int, positions: Float32[np.ndarray, "n 2"]
) -> MappedModel:
    other = 1 - index
    nearest, backward = comparison.nearest[index, other], comparison.nearest[other, index]
    components = comparison.sets[index]
    return MappedModel(
        components.name,
        components.database,
        components.rows,
        positions,
        comparison.sets[other].rows[nearest.index],
        nearest.similarity,
        nearest.mutual(backward),
        nearest.similarity < comparison.thresholds[index],
        float(comparison.thresholds[index]),
        nearest.mean,
    )
