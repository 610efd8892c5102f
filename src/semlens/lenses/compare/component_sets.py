"""Databases that can be compared, and the sets of components that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from semlens.embedders.load import needs_model
from semlens.errors import LayerError, RecipeError, StaleError
from semlens.lenses.class_relevance import MINIMUM, relevant_rows
from semlens.lenses.classes import find_class
from semlens.lenses.query_embedding import unit
from semlens.store.reader import Database
from semlens.types import Layers, as_list


def as_databases(
    databases: Database | Sequence[Database], others: Sequence[object] = ()
) -> list[Database]:
    """Return a checked list of databases, given as one, a list or several arguments.

    Raises
    ------
    StaleError
        If the embedders differ.
    RecipeError
        If there are none, one is given twice, or an argument is not a database.
    """
    result: list[Any] = [*as_list(databases), *others]
    for item in result:
        if not isinstance(item, Database):
            raise RecipeError(
                f"{item!r} is not a database.",
                "Expected a database, or several.",
                "Open it with semlens.open; pass settings by name, as in concepts=....",
            )
    check_databases(result)
    return result


def check_databases(databases: Sequence[Database]) -> None:
    """Check that databases are different and share an embedder.

    Raises
    ------
    StaleError
        If the embedders differ: cosines between their spaces are meaningless.
    RecipeError
        If there are none, or one is given twice.
    """
    if not databases:
        raise RecipeError("No database is given.", "Expected at least one.", "Give a database.")
    first = databases[0]
    locations: set[str] = set()
    for database in databases:
        if database.location in locations:
            raise RecipeError(
                f"The database '{database.location}' is given twice.",
                "Expected different databases.",
                "Leave one out.",
            )
        locations.add(database.location)
        embedder, other_embedder = first.manifest.embedder, database.manifest.embedder
        if embedder.fingerprint != other_embedder.fingerprint:
            same = embedder.spec == other_embedder.spec
            note = " (same name, different weights or preprocessing)" if same else ""
            remedy = f"Rebuild one of them with the embedder '{embedder.spec}'."
            if needs_model(embedder.spec) or needs_model(other_embedder.spec):
                remedy = "Rebuild them with an embedder that is no part of a compared model."
            raise StaleError(
                f"'{first.location}' was embedded by '{embedder.spec}', '{database.location}' by "
                f"'{other_embedder.spec}'{note}.",
                "Expected the same embedder: vectors of different embedders cannot be compared.",
                remedy,
            )


def database_names(databases: Sequence[Database]) -> list[str]:
    """Name databases after their folders, with as many parent folders as make names unique."""
    parts = [_plain(Path(database.location)).parts for database in databases]
    depth = 1
    while depth < max(map(len, parts)) and len({p[-depth:] for p in parts}) < len(parts):
        depth += 1
    names = ["/".join(p[-depth:]) for p in parts]
    if len(set(names)) == len(names):
        return names
    names = [database.name for database in databases]  # only the suffixes differ
    return names if len(set(names)) == len(names) else [d.location for d in databases]


def _plain(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".semlens"))


@dataclass(frozen=True, eq=False)
class ComponentSet:
    """Components of one database, of one or several layers.

    Parameters
    ----------
    name
        Name of the database, followed by the layer if the set is one of several layers.
    rows
        int64[n], rows of ``components.parquet``; all have a vector.
    complete
        Whether the set contains all components of ``layers`` that have a vector.
    """

    name: str
    database: Database
    layers: tuple[str, ...]
    rows: Int64[np.ndarray, " n"]
    complete: bool

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.rows)

    def by_layer(self) -> list[ComponentSet]:
        """Split the set by layer; layers without components are left out."""
        parts: list[ComponentSet] = []
        for layer in self.layers:
            rows = self.rows[np.isin(self.rows, self.database.rows(layer))]
            if len(rows):
                parts.append(replace(self, name=f"{self.name}/{layer}", layers=(layer,), rows=rows))
        return parts

    @property
    def theta(self) -> Float32[np.ndarray, "n d"]:
        """float32[n d], concept vectors."""
        return self.database.theta[self.rows]

    @cached_property
    def unit_vectors(self) -> Float32[np.ndarray, "n d"]:
        """float32[n d], concept vectors scaled to unit length."""
        return unit(self.theta)

    @cached_property
    def components(self) -> list[str]:
        """Names of the components, ``layer:index`` or ``layer:-index``."""
        return self.database.names(self.rows)


def component_sets(
    databases: Sequence[Database],
    *,
    layers: Layers = None,
    by_layer: bool = False,
    target: int | str | None = None,
    minimum: float = MINIMUM,
) -> list[ComponentSet]:
    """Return the components that have a vector, as one set per database or per layer.

    Parameters
    ----------
    databases
        Databases with the same embedder, see :func:`as_databases`.
    layers
        Layers to use; databases may lack some of them.
    target, minimum
        Use only components whose share of their layer's relevance for the class is at least
        ``minimum`` on some sample.

    Raises
    ------
    RecipeError
        If a set would be empty.
    LayerError
        If a database has none of the layers, or no database has one of them.
    RelevanceError
        If a database has no relevance for ``target``.
    """
    available = {name for database in databases for name in database.layers}
    sets: list[ComponentSet] = []
    for database, name in zip(databases, database_names(databases), strict=True):
        names = _layers(database, available, layers)
        for group in [(layer,) for layer in names] if by_layer else [tuple(names)]:
            set_name = f"{name}/{group[0]}" if by_layer else name
            if by_layer and len(databases) == 1:
                set_name = group[0]
            rows = database.rows(group)
            rows = rows[database.has_examples[rows]]
            if target is not None:
                relevant = relevant_rows(database, find_class(database, target), group, minimum)
                rows = rows[np.isin(rows, relevant["component"])]
            if len(rows) == 0:
                raise RecipeError(
                    f"'{set_name}' has no component with a vector in {', '.join(group)}.",
                    "Expected at least one component with concept examples, which has a vector.",
                    "Choose other layers, or leave this set out.",
                )
            sets.append(ComponentSet(set_name, database, group, rows, target is None))
    return sets


def difference_notes(databases: Sequence[Database]) -> list[str]:
    """Return notes on differences other than the model that also change concept vectors."""
    notes: list[str] = []
    if len({database.manifest.data.fingerprint for database in databases}) > 1:
        notes.append("The databases contain different images, which may cause some differences.")
    for name in ("examples", "readout", "crop", "aggregate"):
        values = {str(getattr(database.manifest.recipe, name)) for database in databases}
        if len(values) > 1:
            notes.append(f"The databases differ in '{name}' ({', '.join(sorted(values))}).")
    return notes


def _layers(database: Database, available: set[str], layers: Layers) -> list[str]:
    """Return the requested layers that a database has.

    Layers that no database has are passed on, so that ``Database.chosen`` refuses them.
    """
    if layers is None:
        return database.layers
    names = as_list(layers)
    selected = [name for name in names if name in database.layers or name not in available]
    if names and not selected:
        raise LayerError(
            f"The database '{database.location}' has none of the layers {', '.join(names)}.",
            f"It has {', '.join(database.layers)}.",
            "Give layers of every database, or leave this one out.",
        )
    return database.layer_names(selected)
