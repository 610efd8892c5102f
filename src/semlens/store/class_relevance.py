"""Class relevance as a build has left it: tables by layer."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int64

from semlens.errors import RelevanceError
from semlens.store import layout
from semlens.store.files import load_table
from semlens.store.manifest import Manifest
from semlens.store.once import once


class ClassRelevance:
    """The relevance tables of a database; a layer is read once. Safe in threads."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest
        self._lock = threading.Lock()
        self._tables: dict[str, pa.Table] = {}
        self._order: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @once
    def classes(self) -> pd.DataFrame:
        """Classes that relevance is known for: class (logit), samples."""
        if self._manifest.relevance is None:
            raise RelevanceError(
                f"The database '{self._path}' has no class relevance.",
                "Expected one that was built with --relevance.",
                "Run the same 'semlens build' again with --relevance: only that is computed.",
            )
        return load_table(self._path / layout.RELEVANCE_CLASSES).to_pandas()

    def table(self, layers: list[str], target: int | None) -> pd.DataFrame:
        """Return the rows of some layers: component, class, mean, max."""
        known = self.classes
        lacking = [n for n in layers if layout.relevance_file(n) not in self._manifest.files]
        if lacking:
            raise RelevanceError(
                f"The layer '{lacking[0]}' has no class relevance yet.",
                "Expected a build that has ended.",
                "Run the same 'semlens build' again: it goes on where it stopped.",
            )
        if target is not None and target not in set(known["class"]):
            raise RelevanceError(
                f"The database '{self._path}' holds no relevance for class {target}.",
                f"It has {len(known)} classes with samples.",
                "Choose a class that some sample of the data has.",
            )
        parts: list[pa.Table] = []
        for name in layers:
            table = self._layer(name)
            if target is not None:
                table = table.take(self._rows(name, table, target))
            parts.append(table)
        return pa.concat_tables(parts).to_pandas()

    def _layer(self, name: str) -> pa.Table:
        with self._lock:
            if name not in self._tables:
                self._tables[name] = load_table(self._path / layout.relevance_file(name))
            return self._tables[name]

    def _rows(self, name: str, table: pa.Table, target: int) -> Int64[np.ndarray, " n"]:
        """Return the rows of a class in a layer's table; sorted once for all classes."""
        with self._lock:
            if name not in self._order:
                classes = table["class"].to_numpy()
                order = np.argsort(classes, kind="stable")
                self._order[name] = (classes[order], order)
            classes, order = self._order[name]
        start, stop = np.searchsorted(classes, [target, target + 1])
        return order[start:stop]
