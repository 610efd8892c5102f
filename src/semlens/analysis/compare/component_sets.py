"""What questions about several models are about: databases of one space, sets of components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from semlens.analysis.class_relevance import MINIMUM, relevant_rows
from semlens.analysis.query_embedding import unit
from semlens.errors import LayerError, RecipeError, StaleError
from semlens.store.reader import Database
from semlens.types import Layers, as_list


def as_databases(
    given: Database | Sequence[Database], others: Sequence[object] = ()
) -> list[Database]:
    """Return databases, given as one, a list or several arguments; they must be of one space.

    Raises
    ------
    StaleError
        If the embedders differ.
    RecipeError
        If there is none, one is given twice, or something else is given.
    """
    databases: list[Any] = [*as_list(given), *others]
    for one in databases:
        if not isinstance(one, Database):
            raise RecipeError(
                f"{one!r} is given where a database is meant.",
                "Expected a database, a list of them, or several.",
                "Open it with semlens.open; give settings by their names, as in concepts=....",
            )
    check_databases(databases)
    return databases


def check_databases(databases: Sequence[Database]) -> None:
    """Refuse databases of different embedders, and one folder given twice.

    Raises
    ------
    StaleError
        If the embedders differ: cosines between their spaces mean nothing.
    RecipeError
        If there is none, or one is given twice.
    """
    if not databases:
        raise RecipeError("There is no database.", "Expected at least one.", "Name some.")
    first = databases[0]
    seen: set[str] = set()
    for database in databases:
        folder = str(database.path.resolve())
        if folder in seen:
            raise RecipeError(
                f"The database '{database.path}' is given twice.",
                "Expected different ones: a model has nothing that it has not.",
                "Leave one out.",
            )
        seen.add(folder)
        mine, other = first.manifest.embedder, database.manifest.embedder
        if mine.fingerprint != other.fingerprint:
            same = " (same name, other weights or preprocessing)" if mine.spec == other.spec else ""
            raise StaleError(
                f"'{first.path}' was embedded by '{mine.spec}', '{database.path}' by "
                f"'{other.spec}'{same}.",
                "Expected one embedder: vectors of two spaces cannot be compared.",
                f"Build one of them again with the embedder '{mine.spec}'.",
            )


def database_names(databases: Sequence[Database]) -> list[str]:
    """Name databases by their folders, with as many parents as tell them apart."""
    parts = [_plain(database.path.resolve()).parts for database in databases]
    deep = 1
    while deep < max(map(len, parts)) and len({p[-deep:] for p in parts}) < len(parts):
        deep += 1
    names = ["/".join(p[-deep:]) for p in parts]
    if len(set(names)) == len(names):
        return names
    names = [database.path.resolve().name for database in databases]  # only the suffixes differ
    return names if len(set(names)) == len(names) else [str(d.path.resolve()) for d in databases]


def _plain(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".semlens"))


@dataclass(frozen=True, eq=False)
class ComponentSet:
    """Components of one database, of one or several layers.

    Parameters
    ----------
    name
        The database's, with the layer's where a set is one layer of several.
    rows
        int64[n], rows of ``components.parquet``; all have a vector.
    whole
        Whether these are all components with a vector of ``layers``.
    """

    name: str
    database: Database
    layers: tuple[str, ...]
    rows: Int64[np.ndarray, " n"]
    whole: bool

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.rows)

    def by_layer(self) -> list[ComponentSet]:
        """Split it by layers; layers of which it has no component are left out."""
        parts: list[ComponentSet] = []
        for layer in self.layers:
            rows = self.rows[np.isin(self.rows, self.database.rows(layer))]
            if len(rows):
                parts.append(replace(self, name=f"{self.name}/{layer}", layers=(layer,), rows=rows))
        return parts

    @property
    def theta(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors."""
        return self.database.theta[self.rows]

    @cached_property
    def units(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors, scaled to length one."""
        return unit(self.theta)

    @cached_property
    def components(self) -> list[str]:
        """The components' names, ``layer:index`` or ``layer:-index``."""
        return self.database.names(self.rows)


def component_sets(
    databases: Sequence[Database],
    *,
    layers: Layers = None,
    by_layer: bool = False,
    target: int | str | None = None,
    minimum: float = MINIMUM,
) -> list[ComponentSet]:
    """Choose the components with a vector of each database, as one set or one per layer.

    Parameters
    ----------
    databases
        Of one embedder, see :func:`semlens.analysis.compare.component_sets.as_databases`.
    layers
        Layers to take, of each database those that it has.
    target, minimum
        Take only components whose share of their layer's relevance for the class reaches
        ``minimum`` on some sample.

    Raises
    ------
    RecipeError
        If a database has no component left.
    LayerError
        If a database has none of the layers, or no database has one of them.
    RelevanceError
        If a class is asked for and a database has no relevance for it.
    """
    known = {name for database in databases for name in database.layers}
    made: list[ComponentSet] = []
    for database, name in zip(databases, database_names(databases), strict=True):
        kept = _layers(database, known, layers)
        for group in [(layer,) for layer in kept] if by_layer else [tuple(kept)]:
            title = f"{name}/{group[0]}" if by_layer else name
            if by_layer and len(databases) == 1:
                title = group[0]
            rows = database.rows(group)
            rows = rows[database.has_examples[rows]]
            if target is not None:
                relevant = relevant_rows(database, target, group, minimum)
                rows = rows[np.isin(rows, relevant["component"])]
            if len(rows) == 0:
                raise RecipeError(
                    f"'{title}' has no component with a vector in {', '.join(group)}.",
                    "Expected some: a component without concept examples has none.",
                    "Choose other layers, or leave it out.",
                )
            made.append(ComponentSet(title, database, group, rows, target is None))
    return made


def differences(databases: Sequence[Database]) -> list[str]:
    """Say what else differs between the databases than the model, and so moves vectors too."""
    said: list[str] = []
    if len({database.manifest.data.fingerprint for database in databases}) > 1:
        said.append("The databases hold different images: part of a difference may be theirs.")
    for name in ("examples", "readout", "crop", "aggregate"):
        values = {str(getattr(database.manifest.recipe, name)) for database in databases}
        if len(values) > 1:
            said.append(f"The databases differ in '{name}' ({', '.join(sorted(values))}).")
    return said


def _layers(database: Database, known: set[str], layers: Layers) -> list[str]:
    """Return those of some layers that a database has; what none of all has is refused."""
    if layers is None:
        return database.layers
    wanted = as_list(layers)
    kept = [name for name in wanted if name in database.layers or name not in known]
    if wanted and not kept:
        raise LayerError(
            f"The database '{database.path}' has none of the layers {', '.join(wanted)}.",
            f"It has {', '.join(database.layers)}.",
            "Name a layer of each database, or leave this one out.",
        )
    return database.layer_names(kept)
