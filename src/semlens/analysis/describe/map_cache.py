"""Values of a map by component that outlive added layers: what was computed stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64

from semlens.analysis.compare.component_sets import ComponentSet
from semlens.analysis.describe.clusters import nearest_old
from semlens.analysis.query_embedding import unit
from semlens.recipe import fingerprint
from semlens.store.reader import Database
from semlens.types import Layers, as_list

_WHO = ["set", "component"]
Join = Callable[[np.ndarray, Int64[np.ndarray, "n k"], Float64[np.ndarray, "n k"]], np.ndarray]
"""Makes values of new components from those of old ones, their nearest ones and the weights."""


@dataclass(frozen=True)
class LayoutCache:
    """Values by component, kept in the first of some databases.

    Parameters
    ----------
    layers
        The layers that were asked for; None for all, those that are added later too.
    settings
        What decides the values, besides the vectors.
    """

    kind: str
    sets: Sequence[ComponentSet]
    layers: Layers
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the table: the same after layers were added, or the folder was moved."""
        made = [_identity(one.database) for one in self.sets]
        layers = None if self.layers is None else sorted(set(as_list(self.layers)))
        return f"{self.kind}-{fingerprint(self.kind, made, layers, dict(self.settings))[:16]}"

    def load(self) -> pd.DataFrame | None:
        """Return the kept values, a row per component; None if there are none.

        Values are missing (NaN) for components of layers that were added since. A table is
        void once the vectors of one of its layers have changed.
        """
        found = self.sets[0].database.load_with_origin(self.name)
        if found is None:
            return None
        table, origin = found
        digests = zip(origin["layers"], self._digests(), strict=True)
        if any(not was.items() <= now.items() for was, now in digests):
            return None
        return self._who().merge(table, on=_WHO, how="left").drop(columns=_WHO)

    def save(self, values: pd.DataFrame) -> None:
        """Keep values, a row per component, if the database can be written."""
        database = self.sets[0].database
        if database.is_writable:
            table = pd.concat([self._who(), values], axis=1)
            origin = {"settings": dict(self.settings), "layers": self._digests()}
            database.save_analysis(self.name, table, origin)

    def complete(
        self,
        theta: Float32[np.ndarray, "n d"],
        make: Callable[[Float32[np.ndarray, "n d"]], pd.DataFrame],
        join: Join,
        *,
        again: bool,
    ) -> tuple[pd.DataFrame, bool]:
        """Return the values of all components, and whether some were kept.

        Parameters
        ----------
        make
            Computes all values from unit vectors.
        join
            Gives values to components that have come since; ``placed`` is true for them.
        again
            Whether to forget what was kept.
        """
        kept = None if again else self.load()
        if kept is None:
            made = make(unit(theta)).assign(placed=False)
            self.save(made)
            return made, False
        made = kept["placed"].eq(False).to_numpy(bool)
        new = kept["placed"].isna().to_numpy()
        if new.any():
            units, columns = unit(theta), [name for name in kept if name != "placed"]
            near = nearest_old(units[made], units[new])
            kept.loc[new, columns] = join(kept.loc[made, columns].to_numpy(), *near)
            kept["placed"] = ~made
            self.save(kept)
        return kept, True

    def _who(self) -> pd.DataFrame:
        return pd.concat(
            [
                pd.DataFrame({"set": number, "component": one.components})
                for number, one in enumerate(self.sets)
            ],
            ignore_index=True,
        )

    def _digests(self) -> list[dict[str, str]]:
        """SHA-256 of the vectors of each layer."""
        return [{name: s.database.digests(name)[0] for name in s.layers} for s in self.sets]


def _identity(database: Database) -> str:
    made = database.manifest
    sources = [source.fingerprint for source in (made.model, made.data, made.embedder)]
    return fingerprint(*sources, made.recipe.model_dump(mode="json"))
