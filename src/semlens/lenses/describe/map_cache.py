"""Cache of a map's values by component; existing values stay the same when layers are added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64

from semlens.errors import StoreError
from semlens.lenses.compare.component_sets import ComponentSet
from semlens.lenses.describe.clusters import nearest_existing
from semlens.lenses.query_embedding import unit
from semlens.recipe import fingerprint
from semlens.store.reader import Database
from semlens.types import Layers, as_list

_KEYS = ["set", "component"]
Interpolate = Callable[
    [np.ndarray, Int64[np.ndarray, "n k"], Float64[np.ndarray, "n k"]], np.ndarray
]
"""Computes values of new components from existing values, nearest components and weights."""


@dataclass(frozen=True)
class LayoutCache:
    """Values by component, saved in the first of several databases.

    Parameters
    ----------
    layers
        The requested layers; None for all, including layers added later.
    settings
        What determines the values besides the vectors.
    """

    kind: str
    sets: Sequence[ComponentSet]
    layers: Layers
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the table; it does not change when layers are added or the folder is moved."""
        identities = [_identity(s.database) for s in self.sets]
        layers = None if self.layers is None else sorted(set(as_list(self.layers)))
        return f"{self.kind}-{fingerprint(self.kind, identities, layers, dict(self.settings))[:16]}"

    def load(self) -> pd.DataFrame | None:
        """Return the saved values, one row per component; None if there are none.

        Values of components of layers added since are NaN. A table is invalid once the vectors
        of one of its layers have changed.
        """
        saved = None
        with suppress(StoreError):  # it can be computed again
            saved = self.sets[0].database.load_with_origin(self.name)
        if saved is None:
            return None
        table, origin = saved
        pairs = zip(origin["layers"], self._digests(), strict=True)
        if any(not old.items() <= new.items() for old, new in pairs):
            return None
        return self._keys().merge(table, on=_KEYS, how="left").drop(columns=_KEYS)

    def save(self, values: pd.DataFrame) -> None:
        """Save values, one row per component, if the database is writable."""
        database = self.sets[0].database
        if database.is_writable:
            table = pd.concat([self._keys(), values], axis=1)
            origin = {"settings": dict(self.settings), "layers": self._digests()}
            with suppress(StoreError):  # a full disk; the map is drawn all the same
                database.save_analysis(self.name, table, origin)

    def complete(
        self,
        theta: Float32[np.ndarray, "n d"],
        compute: Callable[[Float32[np.ndarray, "n d"]], pd.DataFrame],
        interpolate: Interpolate,
        *,
        again: bool,
    ) -> tuple[pd.DataFrame, bool]:
        """Return the values of all components, and whether saved ones were used.

        Parameters
        ----------
        compute
            Computes all values from unit vectors.
        interpolate
            Computes values of components added since; ``placed`` is true for these.
        again
            Whether to ignore saved values.
        """
        values = None if again else self.load()
        if values is None:
            values = compute(unit(theta)).assign(placed=False)
            self.save(values)
            return values, False
        has_value = values["placed"].eq(False).to_numpy(bool)
        new = values["placed"].isna().to_numpy()
        if new.any():
            units, columns = unit(theta), [name for name in values if name != "placed"]
            nearest = nearest_existing(units[has_value], units[new])
            values.loc[new, columns] = interpolate(
                values.loc[has_value, columns].to_numpy(), *nearest
            )
            values["placed"] = ~has_value
            self.save(values)
        return values, True

    def _keys(self) -> pd.DataFrame:
        return pd.concat(
            [
                pd.DataFrame({"set": index, "component": component_set.components})
                for index, component_set in enumerate(self.sets)
            ],
            ignore_index=True,
        )

    def _digests(self) -> list[dict[str, str]]:
        """Return the SHA-256 of the vectors of each layer, for each set."""
        return [{name: s.database.digests(name)[0] for name in s.layers} for s in self.sets]


def _identity(database: Database) -> str:
    manifest = database.manifest
    sources = [source.fingerprint for source in (manifest.model, manifest.data, manifest.embedder)]
    return fingerprint(*sources, manifest.recipe.model_dump(mode="json"))
