"""Whose components a question is about: layers of one database, or of several of one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.analysis.align import unit
from semlens.analysis.together import check_databases, database_names
from semlens.errors import LayerError, nearest
from semlens.recipe import fingerprint
from semlens.store import layout
from semlens.store.reader import Database


@dataclass(frozen=True, eq=False)
class Member:
    """One database of a scope, and its components that have examples."""

    name: str
    """Name of the database's folder, longer where two are called alike."""
    database: Database
    layers: tuple[str, ...]
    rows: Int64[np.ndarray, " n"]

    @property
    def identity(self) -> str:
        """Who the database is: the same after layers were added, or the folder was moved."""
        made = self.database.manifest
        sources = (made.model, made.data, made.embedder)
        return fingerprint(
            *(source.fingerprint for source in sources), made.recipe.model_dump(mode="json")
        )

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the vectors of each layer."""
        files = self.database.manifest.files
        return {name: files[layout.theta_file(name)] for name in self.layers}


@dataclass(frozen=True, eq=False)
class Scope:
    """Components of one or several databases that share a semantic space, in one order."""

    members: tuple[Member, ...]
    layers: tuple[str, ...] | None
    """The layers that were asked for; None for all, those that are added later too."""

    def __len__(self) -> int:
        """Return the number of components."""
        return sum(len(member.rows) for member in self.members)

    @cached_property
    def theta(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors."""
        return np.concatenate([m.database.theta[m.rows] for m in self.members])

    @cached_property
    def units(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors of length one."""
        return unit(self.theta)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per component: model, component, layer, index, sign."""
        parts: list[pd.DataFrame] = []
        for member in self.members:
            part = member.database.components.iloc[member.rows][["layer", "index", "sign"]]
            part = part.reset_index(drop=True)
            dash = np.where(part["sign"] < 0, "-", "")
            names = part["layer"].astype(str) + ":" + dash + part["index"].astype(str)
            part.insert(0, "component", names)
            part.insert(0, "model", member.name)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def member_of(self) -> Int64[np.ndarray, " n"]:
        """Place of each component's database among the members."""
        return np.repeat(np.arange(len(self.members)), [len(m.rows) for m in self.members])


def scope_of(databases: Sequence[Database], layers: Sequence[str] | None = None) -> Scope:
    """Collect the components with examples of some layers, or of all.

    Of several databases each gives those of the layers that it has.

    Raises
    ------
    RecipeError
        If there is no database, or one is given twice.
    StaleError
        If the databases were embedded by different foundation models.
    LayerError
        If a layer is in none, a database has none of the layers, or no component has
        examples.
    """
    check_databases(databases)
    wanted = None if layers is None else tuple(dict.fromkeys(layers))
    known = {name: None for database in databases for name in database.layers}
    unknown = [name for name in wanted or () if name not in known]
    if unknown or wanted == ():
        raise LayerError(
            f"Layer '{unknown[0]}' is in no database." if unknown else "There is no layer.",
            f"Expected some of {nearest(unknown[0] if unknown else '', known, at_most=8)}.",
            "Choose one of them, or add it with 'semlens build'.",
        )
    pairs = zip(database_names(databases), databases, strict=True)
    members = tuple(_member(name, database, wanted) for name, database in pairs)
    scope = Scope(members, wanted)
    if len(scope) == 0:
        raise LayerError(
            f"No component of {', '.join(known if wanted is None else wanted)} has an example.",
            "Expected at least one that some image activates.",
            "Choose other layers, or build with more images.",
        )
    return scope


def _member(name: str, database: Database, wanted: tuple[str, ...] | None) -> Member:
    layers = tuple(n for n in database.layers if wanted is None or n in wanted)
    if not layers:
        raise LayerError(
            f"The database '{name}' has none of the layers {', '.join(wanted or ())}.",
            f"It has {', '.join(database.layers)}.",
            "Name a layer of each database, or leave this one out.",
        )
    rows = database.rows(layers)
    return Member(name, database, layers, rows[database.alive[rows]])
