"""Nearest components in the same model, and the counterpart in another one (paper, 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from semlens.errors import LayerError
from semlens.lenses.compare.component_sets import check_databases
from semlens.store.reader import Database
from semlens.types import Component, Layers


@dataclass(frozen=True)
class Neighbour:
    """A component and its similarity."""

    component: Component
    cosine: float
    """Cosine of the concept vectors (Eq. 3)."""


@dataclass(frozen=True)
class Counterpart:
    """The component of another model that is most similar to one of this model."""

    nearest: Neighbour | None
    """None if no component of the other model has examples."""
    mutual: bool
    """Whether the component is in turn the nearest of this model to its counterpart."""


def check_has_examples(database: Database, row: int) -> None:
    """Check that a component has examples, and thus a concept vector.

    Raises
    ------
    LayerError
        If it has none.
    """
    if not database.has_examples[row]:
        raise LayerError(
            f"Component '{database.component(row)}' has no examples.",
            "Expected one that some image activates, or in a database that ranks by relevance, one "
            "that some prediction rests on: only these have a concept vector.",
            "Choose another component, or build with more images.",
        )


def neighbours(
    database: Database, row: int, top: int = 6, layers: Layers = None
) -> tuple[Neighbour, ...]:
    """Return the components with the largest cosine to one component, best first.

    Ties are in row order. Components without examples are excluded.

    Raises
    ------
    LayerError
        If the component has no examples, or a layer is unknown.
    """
    check_has_examples(database, row)
    eligible = np.zeros(database.manifest.rows, bool)
    eligible[database.rows(layers)] = True
    eligible[row] = False
    rows, values = _nearest(database, database.concept_vectors([row]), eligible, top)
    components = map(database.component, rows.tolist())
    return tuple(map(Neighbour, components, values.tolist()))


def counterpart(database: Database, row: int, other: Database) -> Counterpart:
    """Return the component of another model that is nearest to one component.

    Raises
    ------
    StaleError
        If the databases were embedded by different foundation models.
    RecipeError
        If both databases are the same.
    LayerError
        If the component has no examples.
    """
    check_databases([database, other])
    check_has_examples(database, row)
    rows, values = _nearest(other, database.concept_vectors([row]), other.has_examples, 1)
    if not len(rows):
        return Counterpart(None, False)
    back, _ = _nearest(database, other.concept_vectors([int(rows[0])]), database.has_examples, 1)
    nearest = Neighbour(other.component(int(rows[0])), float(values[0]))
    return Counterpart(nearest, int(back[0]) == row)


def _nearest(
    database: Database, vector: Float32[np.ndarray, "1 d"], eligible: np.ndarray, top: int
) -> tuple[Int64[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    """Return the nearest of the eligible components with examples, and their cosines."""
    rows = np.flatnonzero(eligible & database.has_examples)
    values = database.cosines(vector, rows)[:, 0]
    top = min(max(top, 0), len(rows))
    if top == 0:
        return rows[:0], values[:0]
    # sorting all would take longer than comparing them: sort only those up to the top-th value
    nearest = np.flatnonzero(values >= np.partition(values, -top)[-top])
    order = nearest[np.argsort(-values[nearest], kind="stable")][:top]
    return rows[order], values[order]
