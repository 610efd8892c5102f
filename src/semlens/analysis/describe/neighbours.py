"""The components nearest to one: in its own model, and its twin in another (paper, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from semlens.analysis.compare.component_sets import check_databases
from semlens.errors import LayerError
from semlens.store.reader import Database
from semlens.types import Component, Layers


@dataclass(frozen=True)
class Neighbour:
    """A component, and how alike it is."""

    component: Component
    cosine: float
    """Of the concept vectors (Eq. 3)."""
    label: str | None = None
    """For whoever names it."""


@dataclass(frozen=True)
class Counterpart:
    """The component of another model that is most like one of this model."""

    nearest: Neighbour | None
    """None if none of the other model has examples."""
    mutual: bool
    """Whether, of this model, the component is in turn the nearest to its twin."""


def check_has_examples(database: Database, row: int) -> None:
    """Refuse a component without examples: it has no vector.

    Raises
    ------
    LayerError
        If no image activates it.
    """
    if not database.has_examples[row]:
        raise LayerError(
            f"Component '{database.component(row)}' has no examples.",
            "Expected one that some image activates: only those have a concept vector.",
            "Choose another component, or build with more images.",
        )


def neighbours(
    database: Database, row: int, top: int = 6, layers: Layers = None
) -> tuple[Neighbour, ...]:
    """Return the other components of some layers with the largest cosine, best first.

    Of equal ones the smaller row comes first. Components without examples are left out.

    Raises
    ------
    LayerError
        If the component has no examples, or a layer is unknown.
    """
    check_has_examples(database, row)
    among = np.zeros(database.manifest.rows, bool)
    among[database.rows(layers)] = True
    among[row] = False
    rows, values = _ranked(database, database.concept_vectors([row]), among, top)
    parts = map(database.component, rows.tolist())
    return tuple(map(Neighbour, parts, values.tolist()))


def counterpart(database: Database, row: int, other: Database) -> Counterpart:
    """Find the nearest component of another model.

    Raises
    ------
    StaleError
        If the databases were embedded by different foundation models.
    RecipeError
        If both are the same.
    LayerError
        If the component has no examples.
    """
    check_databases([database, other])
    check_has_examples(database, row)
    rows, values = _ranked(other, database.concept_vectors([row]), other.has_examples, 1)
    if not len(rows):
        return Counterpart(None, False)
    back, _ = _ranked(database, other.concept_vectors([int(rows[0])]), database.has_examples, 1)
    nearest = Neighbour(other.component(int(rows[0])), float(values[0]))
    return Counterpart(nearest, int(back[0]) == row)


def _ranked(
    database: Database, vector: Float32[np.ndarray, "1 d"], among: np.ndarray, top: int
) -> tuple[Int64[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    """Return the nearest living components of some, and their cosines."""
    rows = np.flatnonzero(among & database.has_examples)
    values = database.cosines(vector, rows)[:, 0]
    top = min(max(top, 0), len(rows))
    if top == 0:
        return rows[:0], values[:0]
    # to sort all would take longer than to compare them
    first = np.flatnonzero(values >= np.partition(values, -top)[-top])
    order = first[np.argsort(-values[first], kind="stable")][:top]
    return rows[order], values[order]
