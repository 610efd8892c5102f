"""Who the components of a database are: layers, channels, signs, and their rows."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from semlens.errors import LayerError, nearest
from semlens.store import layout
from semlens.store.build_files import BuildFiles
from semlens.store.manifest import LayerEntry, Manifest
from semlens.store.once import once
from semlens.types import Component, Components, as_components, as_list


class ComponentIndex:
    """The layers and components of a database, and what its readers share."""

    path: Path
    manifest: Manifest
    files: BuildFiles

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in row order."""
        return [layer.name for layer in self.manifest.layers]

    def layer(self, name: str) -> LayerEntry:
        """Return a layer's entry.

        Raises
        ------
        LayerError
            If the database does not have it.
        """
        entry = self.manifest.layer(name)
        if entry is None:
            raise LayerError(
                f"Layer '{name}' is not in the database '{self.path}'.",
                f"It has {nearest(name, self.layers, at_most=8)}.",
                f"Add it: semlens build {self.path} ... --layers {name}",
            )
        return entry

    def digests(self, layer: str) -> list[str]:
        """SHA-256 of a layer's vectors and of its examples: what is derived of it follows them."""
        name = self.layer(layer).name
        return [
            self.manifest.files[file(name)] for file in (layout.theta_file, layout.examples_file)
        ]

    def chosen(self, layers: str | Sequence[str] | None) -> list[str]:
        """Return the names of some layers, each once and in the order given, or of all.

        Raises
        ------
        LayerError
            If there is none, or the database lacks one.
        """
        if layers is None:
            return self.layers
        if not layers:
            raise LayerError("No layer was named.", "Expected at least one.", "Name one.")
        return [self.layer(name).name for name in dict.fromkeys(as_list(layers))]

    @once
    def components(self) -> pd.DataFrame:
        """One row per component; row number = row of theta."""
        return self.files.table(layout.COMPONENTS).to_pandas()

    def rows(self, layers: str | Sequence[str] | None = None) -> Int64[np.ndarray, " n"]:
        """Return the row numbers of some layers' components, or of all; each layer once."""
        entries = [self.layer(name) for name in self.chosen(layers)]
        return np.concatenate([np.arange(e.first, e.first + e.rows) for e in entries])

    def row(self, component: Component) -> int:
        """Return the row of a component.

        Raises
        ------
        LayerError
            If the database does not have it.
        """
        entry = self.layer(component.layer)
        place = component.index + (entry.channels if component.sign < 0 else 0)
        if component.index >= entry.channels or place >= entry.rows:
            signs = "both signs" if entry.rows > entry.channels else "sign +1 only"
            raise LayerError(
                f"Component '{component}' is not in the database.",
                f"Layer '{entry.name}' has components 0 to {entry.channels - 1}, {signs}.",
                "Choose one of them.",
            )
        return entry.first + place

    def rows_of(self, components: Components) -> list[int]:
        """Return the rows of components, however they are given.

        Raises
        ------
        LayerError
            If a name has another form, or the database does not have it.
        """
        return [self.row(component) for component in as_components(components)]

    def component(self, row: int) -> Component:
        """Return the component of a row.

        Raises
        ------
        LayerError
            If the database does not have it.
        """
        if not 0 <= row < self.manifest.rows:
            raise LayerError(
                f"Row {row} is not in the database '{self.path}'.",
                f"It has the rows 0 to {self.manifest.rows - 1}.",
                "Choose one of them.",
            )
        entry = self.manifest.layers[bisect.bisect_right(self._firsts, row) - 1]
        place = row - entry.first
        return Component(entry.name, place % entry.channels, -1 if place >= entry.channels else 1)

    def names(self, rows: Int64[np.ndarray, " n"] | None = None) -> list[str]:
        """Return the names of components, such as ``layer3:17``; of all by default."""
        if rows is None:
            rows = np.arange(self.manifest.rows)
        heads = [f"{e.name}:{sign}" for e in self.manifest.layers for sign in ("", "-")]
        channels = np.array([e.channels for e in self.manifest.layers])
        layer = self._layer_of(rows)
        negative, index = np.divmod(rows - np.array(self._firsts)[layer], channels[layer])
        parts = zip((2 * layer + negative).tolist(), index.tolist(), strict=True)
        return [f"{heads[head]}{place}" for head, place in parts]

    @once
    def _firsts(self) -> list[int]:
        return [entry.first for entry in self.manifest.layers]

    def _layer_of(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the place of each row's layer among the layers."""
        return np.searchsorted(self._firsts, rows, "right") - 1

    @property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Which components have at least one example, and so a vector."""
        return self.components["examples"].to_numpy() > 0
