"""Class relevance as a build has left it: tables by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from semlens.errors import RelevanceError
from semlens.store import layout
from semlens.store.component_index import ComponentIndex
from semlens.store.once import once


class ClassRelevance(ComponentIndex):
    """What a database knows of class relevance; a layer is read once. Safe in threads."""

    @once
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
                "Run the same build again with relevance=True (--relevance): only that is "
                "computed.",
            )
        if layout.RELEVANCE_CLASSES not in self.manifest.files:
            raise self._unfinished(f"The database '{self.path}'")
        return self.files.table(layout.RELEVANCE_CLASSES).to_pandas()

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
            if layout.relevance_file(name) not in self.manifest.files:
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
            table = self.files.table(layout.relevance_file(name))
            order = np.argsort(table["class"].to_numpy(), kind="stable")
            held[name] = (table, table["class"].to_numpy()[order], order)
        return held[name]

    @once
    def _relevance_held(self) -> dict[str, tuple[pa.Table, np.ndarray, np.ndarray]]:
        return {}

    @staticmethod
    def _unfinished(what: str) -> RelevanceError:
        return RelevanceError(
            f"{what} has no class relevance yet.",
            "Expected a build that has ended.",
            "Run the same build again: it goes on where it stopped.",
        )
