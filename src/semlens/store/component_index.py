"""The components of a database and their relevance for each class."""

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
from semlens.store.checked_files import BuildFiles
from semlens.store.locked_cached_property import locked_cached_property
from semlens.store.manifest import LayerEntry, Manifest
from semlens.types import Component, Components, as_components, as_list


class ComponentIndex:
    """The layers and components of a database; base of its readers."""

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
                f"Choose one of them, or add it: semlens build {self.path} ... --layers {name}",
            )
        return entry

    def digests(self, layer: str) -> list[str]:
        """SHA-256 of a layer's vectors and of its examples, which derived tables depend on."""
        files = (file_names.theta_file, file_names.examples_file)
        return [self.manifest.files[file(self.layer(layer).name)] for file in files]

    def layer_names(self, layers: str | Sequence[str] | None) -> list[str]:
        """Return the names of some layers, each once and in the order given, or of all.

        Raises
        ------
        LayerError
            If no layer is named, or the database does not have one.
        """
        if layers is None:
            return self.layers
        if not layers:
            raise LayerError("No layer is named.", "Expected at least one.", "Name a layer.")
        return [self.layer(name).name for name in dict.fromkeys(as_list(layers))]

    @locked_cached_property
    def components(self) -> pd.DataFrame:
        """One row per component, in the order of theta."""
        return self.files.table(file_names.COMPONENTS).to_pandas()

    def rows(self, layers: str | Sequence[str] | None = None) -> Int64[np.ndarray, " n"]:
        """Return the rows of the components of some layers, or of all; each layer once."""
        entries = [self.layer(name) for name in self.layer_names(layers)]
        return np.concatenate([np.arange(e.first, e.first + e.rows) for e in entries])

    def row(self, component: Component) -> int:
        """Return the row of a component.

        Raises
        ------
        LayerError
            If the database does not have it.
        """
        entry = self.layer(component.layer)
        offset = component.index + (entry.channels if component.sign < 0 else 0)
        if component.index >= entry.channels or offset >= entry.rows:
            signs = "both signs" if entry.rows > entry.channels else "sign +1 only"
            raise LayerError(
                f"Component '{component}' is not in the database.",
                f"Layer '{entry.name}' has components 0 to {entry.channels - 1}, {signs}.",
                "Choose one of them.",
            )
        return entry.first + offset

    def rows_of(self, components: Components) -> list[int]:
        """Return the rows of components, given as objects, names or a result.

        Raises
        ------
        LayerError
            If a name is not valid, or the database does not have the component.
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
        entry = self.manifest.layers[bisect.bisect_right(self._first_rows, row) - 1]
        offset = row - entry.first
        return Component(entry.name, offset % entry.channels, -1 if offset >= entry.channels else 1)

    def names(self, rows: Int64[np.ndarray, " n"] | None = None) -> list[str]:
        """Return the names of components, such as ``layer3:17``; of all by default."""
        rows = np.arange(self.manifest.rows) if rows is None else rows
        prefixes = [f"{e.name}:{sign}" for e in self.manifest.layers for sign in ("", "-")]
        channels = np.array([e.channels for e in self.manifest.layers])
        layer = self._layer_index(rows)
        negative, index = np.divmod(rows - np.array(self._first_rows)[layer], channels[layer])
        pairs = zip((2 * layer + negative).tolist(), index.tolist(), strict=True)
        return [f"{prefixes[prefix]}{channel}" for prefix, channel in pairs]

    def _locate_crop(self, crop: int) -> tuple[int, int]:
        """Return the index of the crops file that contains a crop, and the row in it."""
        first_crops = [0, *accumulate(self.manifest.crops)]
        file_index = bisect.bisect_right(first_crops, crop) - 1
        return file_index, crop - first_crops[file_index]

    @locked_cached_property
    def _first_rows(self) -> list[int]:
        return [entry.first for entry in self.manifest.layers]

    def _layer_index(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Return the index of each row's layer."""
        return self._layer_of_row[rows]

    @locked_cached_property
    def _layer_of_row(self) -> Int64[np.ndarray, " n"]:
        """Index of the layer of every row: to look it up is far faster than to search for it."""
        return np.repeat(np.arange(len(self.layers)), [e.rows for e in self.manifest.layers])

    @property
    def has_examples(self) -> Bool[np.ndarray, " n"]:
        """Whether each component has at least one example, and so a concept vector."""
        return self.components["examples"].to_numpy() > 0


class ClassRelevanceIndex(ComponentIndex):
    """Class relevance of a database; each layer is read once. Thread-safe."""

    @locked_cached_property
    def relevance_classes(self) -> pd.DataFrame:
        """Classes with relevance: class (logit), samples.

        Raises
        ------
        RelevanceError
            If the database was built without class relevance.
        """
        if self.manifest.relevance is None:
            raise RelevanceError(
                f"The database '{self.path}' has no class relevance.",
                "Expected one that was built with relevance.",
                "Run the same build again with relevance=True, or 'semlens build ... --relevance': "
                "only relevance is computed.",
            )
        if file_names.RELEVANCE_CLASSES not in self.manifest.files:
            raise self._unfinished(f"The database '{self.path}'")
        return self.files.table(file_names.RELEVANCE_CLASSES).to_pandas()

    def relevance(
        self, target: int | None = None, layers: str | Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return class relevance: component (row), class, mean, max.

        Both are shares of the layer's total of absolute values, in [-1, 1]; pairs below the
        manifest's floor are not stored.

        Raises
        ------
        RelevanceError
            If the database has no class relevance, or none for this class.
        """
        classes_table, names = self.relevance_classes, self.layer_names(layers)
        for name in names:
            if file_names.relevance_file(name) not in self.manifest.files:
                raise self._unfinished(f"The layer '{name}'")
        if target is not None and target not in set(classes_table["class"]):
            raise RelevanceError(
                f"The database '{self.path}' has no relevance for class {target}.",
                f"It has {len(classes_table)} classes with samples: "
                f"{', '.join(map(str, classes_table['class'][:8]))}"
                f"{', ...' if len(classes_table) > 8 else ''}.",
                "Choose one of them, or build again with classes=FILE or targets= (--classes, "
                "--targets) that assign samples to it: only class relevance is computed.",
            )
        tables: list[pa.Table] = []
        for name in names:
            table, classes, order = self._relevance_by_class(name)
            if target is not None:
                start, stop = np.searchsorted(classes, [target, target + 1])
                table = table.take(order[start:stop])
            tables.append(table)
        return pa.concat_tables(tables).to_pandas()

    def _relevance_by_class(self, name: str) -> tuple[pa.Table, np.ndarray, np.ndarray]:
        """Return a layer's table, its sorted classes, and the order of rows that sorts them."""
        cached = self._relevance_cache
        if name not in cached:  # two threads may read it both, with the same result
            table = self.files.table(file_names.relevance_file(name))
            order = np.argsort(table["class"].to_numpy(), kind="stable")
            cached[name] = (table, table["class"].to_numpy()[order], order)
        return cached[name]

    @locked_cached_property
    def _relevance_cache(self) -> dict[str, tuple[pa.Table, np.ndarray, np.ndarray]]:
        return {}

    @staticmethod
    def _unfinished(subject: str) -> RelevanceError:
        return RelevanceError(
            f"{subject} has no class relevance yet.",
            "Expected a finished build.",
            "Run the same build again: it resumes.",
        )
