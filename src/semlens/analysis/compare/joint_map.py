"""Two models on one map: what both know lies together, what one knows lies alone (paper, E)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64

from semlens.analysis.compare.compare import compare
from semlens.analysis.compare.comparison import Comparison
from semlens.analysis.describe.concept_map import concept_map
from semlens.analysis.saved_labels import saved_labels
from semlens.errors import RecipeError
from semlens.store.reader import Database

KINDS = ("matched", "only_first", "only_second")
"""Pairs that are each other's nearest, and components without a near one in the other model."""


@dataclass(frozen=True, eq=False)
class MappedModel:
    """The components of one of two models.

    Parameters
    ----------
    rows
        int64[n], rows of the components in their database.
    where
        float32[n 2], positions on the common map.
    nearest
        int64[n], rows of the nearest components in the other database.
    similarity
        float32[n], cosines with these.
    mutual
        bool[n], whether each is the nearest of its nearest, too.
    alone
        bool[n], whether the nearest is farther than ``threshold``.
    mean
        Set similarity with the other model (Eq. 5).
    """

    name: str
    database: Database
    rows: Int64[np.ndarray, " n"]
    where: Float32[np.ndarray, "n 2"]
    nearest: Int64[np.ndarray, " n"]
    similarity: Float32[np.ndarray, " n"]
    mutual: Bool[np.ndarray, " n"]
    alone: Bool[np.ndarray, " n"]
    threshold: float
    mean: float


@dataclass(frozen=True, eq=False)
class JointMap:
    """Two models, component by component."""

    first: MappedModel
    second: MappedModel
    notes: tuple[str, ...]
    """What else differs between the databases than the model."""

    def pairs(self, kind: str) -> pd.DataFrame:
        """Return pairs of components: component, other, similarity, label, other_label.

        ``component`` is of the first model, or of the second one for ``only_second``. Matched pairs
        come most similar first, components without a counterpart least similar first.

        Raises
        ------
        RecipeError
            If the kind is unknown.
        """
        if kind not in KINDS:
            raise RecipeError(
                f"'{kind}' is no kind of pairs.", f"Expected {', '.join(KINDS)}.", "Choose one."
            )
        both = self.first, self.second
        mine, other = both[::-1] if kind == "only_second" else both
        chosen = np.flatnonzero(mine.mutual if kind == "matched" else mine.alone)
        sign = -1 if kind == "matched" else 1
        chosen = chosen[np.lexsort((mine.rows[chosen], sign * mine.similarity[chosen]))]
        rows, others = mine.rows[chosen], mine.nearest[chosen]
        return pd.DataFrame(
            {
                "component": mine.database.names(rows),
                "other": other.database.names(others),
                "similarity": mine.similarity[chosen],
                "label": _labels(mine.database, rows),
                "other_label": _labels(other.database, others),
            }
        )


def _labels(database: Database, rows: Int64[np.ndarray, " n"]) -> pd.Series:
    known = saved_labels(database)
    labels = [None] * len(rows) if known is None else known["label"].to_numpy()[rows]
    return pd.Series(labels, dtype=object)  # else pandas makes None a number


def joint_map(first: Database, second: Database) -> JointMap:
    """Lay two models out on one map, and find for each component its nearest in the other.

    The map is kept in the first database, the thresholds are those of
    :func:`semlens.compare`: a component is alone when its nearest is farther than 95 % of its
    fellows are from theirs.

    Raises
    ------
    StaleError
        If the databases are of different embedders.
    RecipeError
        If both are the same, or one has no component with a vector.
    """
    found = compare(first, second, concepts=None, scores=False)
    placed = concept_map(first, second, concepts=None).frame
    ahead, back = np.split(placed[["x", "y"]].to_numpy(np.float32), [len(found.sets[0])])
    return JointMap(_side(found, 0, ahead), _side(found, 1, back), found.notes)


def _side(found: Comparison, mine: int, where: Float32[np.ndarray, "n 2"]) -> MappedModel:
    other = 1 - mine
    near, back = found.nearest[mine, other], found.nearest[other, mine]
    one = found.sets[mine]
    return MappedModel(
        one.name,
        one.database,
        one.rows,
        where,
        found.sets[other].rows[near.place],
        near.similarity,
        near.mutual(back),
        near.similarity < found.thresholds[mine],
        float(found.thresholds[mine]),
        near.mean,
    )
