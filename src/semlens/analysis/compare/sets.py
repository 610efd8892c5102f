"""What is compared: sets of components, each of one database and one or several layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.analysis.align import unit
from semlens.analysis.target import class_name, find_class
from semlens.analysis.together import check_databases, database_names
from semlens.errors import LayerError, RecipeError, RelevanceError
from semlens.store.reader import Database

MINIMUM = 0.01
"""Least relevance share of a component that counts for a class (paper, D.5)."""


@dataclass(frozen=True, eq=False)
class ComponentSet:
    """Components of one database that are compared as one set.

    Parameters
    ----------
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
            entry = self.database.layer(layer)
            mine = (self.rows >= entry.first) & (self.rows < entry.first + entry.rows)
            if mine.any():
                name = f"{self.name}/{layer}"
                parts.append(
                    ComponentSet(name, self.database, (layer,), self.rows[mine], self.whole)
                )
        return parts

    @cached_property
    def units(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors, scaled to length one."""
        return unit(self.database.theta[self.rows])

    @cached_property
    def components(self) -> list[str]:
        """The components' names, ``layer:index`` or ``layer:-index``."""
        frame = self.database.components.iloc[self.rows]
        signs = np.where(frame["sign"].to_numpy() < 0, "-", "")
        parts = zip(frame["layer"], signs, frame["index"], strict=True)
        return [f"{layer}:{sign}{index}" for layer, sign, index in parts]


def component_sets(
    databases: Sequence[Database],
    *,
    layers: Sequence[str] | None = None,
    by_layer: bool = False,
    target: int | str | None = None,
    minimum: float = MINIMUM,
) -> list[ComponentSet]:
    """Choose the components of each database, as one set or one per layer.

    Parameters
    ----------
    layers
        Layers to take, of each database those that it has.
    target, minimum
        Take only components whose share of their layer's relevance for the class reaches
        ``minimum`` on some sample.

    Raises
    ------
    StaleError
        If the embedders differ.
    RecipeError
        If there is no database, one is given twice, or one has no component left.
    LayerError
        If a database has none of the layers, or no database has one of them.
    RelevanceError
        If a class is asked for and a database has no relevance for it.
    """
    check_databases(databases)
    chosen = [_layers(database, databases, layers) for database in databases]
    names = database_names(databases)
    made: list[ComponentSet] = []
    for database, kept, name in zip(databases, chosen, names, strict=True):
        groups = [(layer,) for layer in kept] if by_layer else [tuple(kept)]
        for group in groups:
            title = name
            if by_layer:
                title = group[0] if len(databases) == 1 else f"{name}/{group[0]}"
            made.append(_set(title, database, group, target, minimum))
    return made


def sets_frame(sets: Sequence[ComponentSet]) -> pd.DataFrame:
    """Return one row per set: its name, database, layers and number of components."""
    return pd.DataFrame(
        {
            "set": [one.name for one in sets],
            "database": [str(one.database.path) for one in sets],
            "model": [one.database.manifest.model.spec for one in sets],
            "layers": [", ".join(one.layers) for one in sets],
            "components": [len(one) for one in sets],
        }
    )


def differences(databases: Sequence[Database]) -> list[str]:
    """Say what else differs between the databases than the model, and so moves vectors too."""
    said: list[str] = []
    if len({database.manifest.data.fingerprint for database in databases}) > 1:
        said.append("The databases hold different images: part of a difference may be theirs.")
    settings = ("examples", "readout", "crop", "aggregate")
    for name in settings:
        values = {str(getattr(database.manifest.recipe, name)) for database in databases}
        if len(values) > 1:
            said.append(f"The databases differ in '{name}' ({', '.join(sorted(values))}).")
    return said


def _layers(
    database: Database, databases: Sequence[Database], layers: Sequence[str] | None
) -> list[str]:
    if not layers:
        return database.chosen(layers)
    everywhere = {name for other in databases for name in other.layers}
    for name in layers:
        if name not in everywhere:
            database.layer(name)  # says which layers there are
    kept = [name for name in dict.fromkeys(layers) if name in database.layers]
    if not kept:
        raise LayerError(
            f"The database '{database.path}' has none of the layers {', '.join(layers)}.",
            f"It has {', '.join(database.layers)}.",
            "Name a layer of each database: --layer may be given again.",
        )
    return kept


def _set(
    name: str, database: Database, layers: tuple[str, ...], target: int | str | None, minimum: float
) -> ComponentSet:
    rows = database.rows(layers)
    rows = rows[database.alive[rows]]
    if len(rows) == 0:
        raise RecipeError(
            f"'{name}' has no component with a vector in {', '.join(layers)}.",
            "Expected some: a component without concept examples has none.",
            "Choose other layers, or leave it out.",
        )
    if target is None:
        return ComponentSet(name, database, layers, rows, whole=True)
    kept = relevant_rows(database, rows, target, minimum, layers)
    return ComponentSet(name, database, layers, kept, whole=False)


def relevant_rows(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    target: int | str,
    minimum: float,
    layers: Sequence[str],
) -> Int64[np.ndarray, " m"]:
    """Return the rows whose share of relevance for a class reaches ``minimum`` on some sample.

    Raises
    ------
    RelevanceError
        If the database has no relevance for the class, or no component reaches the share.
    """
    number = find_class(database, target)
    found = database.relevance(number, layers)
    kept = np.intersect1d(rows, found["component"].to_numpy()[found["max"].to_numpy() >= minimum])
    if len(kept) == 0:
        largest = f"{found['max'].max():.2%}" if len(found) else "none"
        raise RelevanceError(
            f"No component of '{database.path}' has {minimum:.2%} of the relevance for "
            f"'{class_name(database, number)}'.",
            f"The largest share is {largest}.",
            "Lower --minimum, or choose other layers.",
        )
    return kept
