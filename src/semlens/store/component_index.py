"""Who the components of a database are, and how much each matters for each class."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Int64

from semlens.errors import LayerError, RelevanceError, nearest
from semlens.store import file_names
from semlens.store.build_files import BuildFiles
from semlens.store.locked_cached_property import locked_cached_property
from semlens.store.manifest import LayerEntry, Manifest
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
        entry = next((layer for layer in self.manifest.layers if layer.name == name), None)
        if entry is None:
            raise LayerError(
                f"Layer '{name}' is not in the database '{self.path}'.",
                f"It has {nearest(name, self.layers, at_most=8)}.",
                f"Add it: semlens build {self.path} ... --layers {name}",
            )
        return entry

    def digests(self, layer: str) -> list[str]:
        """SHA-256 of a layer's vectors and of its examples: what is derived of it follows them."""
        files = (file_names.theta_file, file_names.examples_file)
        return [self.manifest.files[file(self.layer(layer).name)] for file in files]

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

    @locked_cached_property
    def components(self) -> pd.DataFrame:
        """One row per component; row number = row of theta."""
        return self.files.table(file_names.COMPONENTS).to_pandas()

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
        rows = np.arange(self.manifest.rows) if rows is None else rows
        heads = [f"{e.name}:{sign}" for e in self.manifest.layers for sign in ("", "-")]
        channels = np.array([e.channels for e in self.manifest.layers])
        layer = self._layer_of(rows)
        negative, index = np.divmod(rows - np.array(self._firsts)[layer], channels[layer])
        parts = zip((2 * layer + negative).tolist(), index.tolist(), strict=True)
        return [f"{heads[head]}{place}" for head, place in parts]

    def _crop_place(self, crop: int) -> tuple[int, int]:
        """Return the number of the crops file that holds a crop, and the row in it."""
        starts = [0, *accumulate(self.manifest.crops)]
        number = bisect.bisect_right(starts, crop) - 1
        return number, crop - starts[number]

    @locked_cached_property
    def _firsts(self) -> list[int]:
        return [entry.first for entry in self.manifest.layers]

    def _layer_of(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the place of each row's layer among the layers."""
        return np.searchsorted(self._firsts, rows, "right") - 1

    @property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Which components have at least one example, and so a vector."""
        return self.components["examples"].to_numpy() > 0


class ClassRelevanceIndex(ComponentIndex):
    """What a database knows of class relevance; a layer is read once. Safe in threads."""

    @locked_cached_property
    def relevance_classes(self) -> pd.DataFrame:
        """Classes that relevance is known for: class (logit), samples.

        Raises
        ------
        RelevanceError
            If the database was built without.
        """
        if self.manifest.relevance is None:
            raise RelevanceError(
                f"The database '{self.path}' has no class relevance.",
                "Expected one that was built with relevance.",
                "Run the same build again with relevance=True, or 'semlens build ... --relevance': "
                "only that is computed.",
            )
        if file_names.RELEVANCE_CLASSES not in self.manifest.files:
            raise self._unfinished(f"The database '{self.path}'")
        return self.files.table(file_names.RELEVANCE_CLASSES).to_pandas()

    def relevance(
        self, target: int | None = None, layers: str | Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return class relevance: component (row), class, mean, max.

        Both are shares of the layer's total of absolute values, in [-1, 1]; pairs under the
        manifest's floor are not kept.

        Raises
        ------
        RelevanceError
            If the database was built without, or not for this class.
        """
        known, names = self.relevance_classes, self.chosen(layers)
        for name in names:
            if file_names.relevance_file(name) not in self.manifest.files:
                raise self._unfinished(f"The layer '{name}'")
        if target is not None and target not in set(known["class"]):
            raise RelevanceError(
                f"The database '{self.path}' holds no relevance for class {target}.",
                f"It has {len(known)} classes with samples: "
                f"{', '.join(map(str, known['class'][:8]))}{', ...' if len(known) > 8 else ''}.",
                "Choose one of them, or build again with classes=FILE or targets= (--classes, "
                "--targets) that give samples this class: only class relevance is computed.",
            )
        parts: list[pa.Table] = []
        for name in names:
            table, classes, order = self._relevance_by_class(name)
            if target is not None:
                start, stop = np.searchsorted(classes, [target, target + 1])
                table = table.take(order[start:stop])
            parts.append(table)
        return pa.concat_tables(parts).to_pandas()

    def _relevance_by_class(self, name: str) -> tuple[pa.Table, np.ndarray, np.ndarray]:
        """Return a layer's table, its classes in order, and the rows in that order."""
        held = self._relevance_held
        if name not in held:  # two threads may both read it: they find the same
            table = self.files.table(file_names.relevance_file(name))
            order = np.argsort(table["class"].to_numpy(), kind="stable")
            held[name] = (table, table["class"].to_numpy()[order], order)
        return held[name]

    @locked_cached_property
    def _relevance_held(self) -> dict[str, tuple[pa.Table, np.ndarray, np.ndarray]]:
        return {}

    @staticmethod
    def _unfinished(what: str) -> RelevanceError:
        return RelevanceError(
            f"{what} has no class relevance yet.",
            "Expected a build that has ended.",
            "Run the same build again: it goes on where it stopped.",
        )
