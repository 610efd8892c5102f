"""The one name of each component: its label, wherever it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from semlens.lenses.labelling.confidence import as_shown, rival
from semlens.lenses.labelling.label import VOCABULARY, label
from semlens.lenses.labelling.labels import Labels
from semlens.lenses.saved_labels import PREFIX, label_tables, saved_labels
from semlens.store.reader import Database
from semlens.types import Component, Layers

NAMES = "names"
"""The names of components as a source of labels, beside concept sets."""
SAVED = "saved:"
"""Prefix of the name of a label table that is saved in the database."""


@dataclass(frozen=True, eq=False)
class ComponentNames:
    """Labels of components: the newest saved ones, or else those of the paper's vocabulary.

    Parameters
    ----------
    source
        The saved labels (``saved:NAME``), or the concept set.
    frame
        One row per component of the database: label, rival (None: none), confidence (NaN:
        unknown). Components of layers that were not asked for have no label.
    method
        The labelling method; empty if there are no labels.
    """

    source: str
    method: str
    frame: pd.DataFrame
    database: Database

    @classmethod
    def of_saved(cls, database: Database, table: str) -> ComponentNames:
        """Read saved labels.

        Raises
        ------
        ConceptError
            If there is no table of this name.
        """
        frame = saved_labels(database, table)
        methods = database.load_analysis(PREFIX + table, ["method"])
        method = "" if methods is None or methods.empty else str(methods["method"].iat[0])
        columns = ["label", "rival", "confidence"]
        named = unnamed(database) if frame is None else frame.loc[:, columns]
        return cls(SAVED + table, method, named, database)

    @classmethod
    def of_labels(cls, labels: Labels) -> ComponentNames:
        """Take the labels of a concept set."""
        database, table = labels.database, labels.to_pandas()
        frame = unnamed(database)
        # pandas turns a missing label into NaN
        table["label"] = table["label"].astype(object).where(table["label"].notna(), None)
        columns = (table[name] for name in ("label", "candidates", "scores", "confidence"))
        frame.loc[labels.rows, "label"] = table["label"].to_numpy(object)
        frame.loc[labels.rows, "rival"] = pd.Series(
            [rival(*values) for values in zip(*columns, strict=True)], labels.rows, object
        )
        frame.loc[labels.rows, "confidence"] = table["confidence"].to_numpy()
        frame = frame.astype({"confidence": np.float64})
        return cls(labels.concepts.name, str(labels.chosen), frame, database)

    def of(self, component: Component | str) -> str | None:
        """Return the label of a component, or None."""
        found: str | None = self.frame["label"].iat[self.database.rows_of(component)[0]]
        return found

    def shown(self, components: Sequence[Component | str]) -> list[str]:
        """Return names to show: the label, marked if it is unsure, or else the component's id."""
        rows = self.database.rows_of([*components])
        records = self.frame.iloc[rows].to_dict("records")
        return [
            as_shown(record["label"], record["confidence"], record["rival"]) or str(component)
            for component, record in zip(components, records, strict=True)
        ]


def component_names(database: Database, layers: Layers = None) -> ComponentNames | None:
    """Return what components are called, on the command line as in the web application.

    Parameters
    ----------
    layers
        Layers whose components are labelled if no labels are saved.

    Returns
    -------
    ComponentNames or None
        None if no labels are saved and the embedder reads no texts.
    """
    tables = label_tables(database)
    if tables:
        return ComponentNames.of_saved(database, tables[0].name)
    if not database.embedder.has_text:
        return None
    if database in _kept:
        return ComponentNames(*_kept[database], database)
    names = ComponentNames.of_labels(label(database, VOCABULARY, layers=layers))
    if layers is None:
        _kept[database] = names.source, names.method, names.frame
    return names


_kept: WeakKeyDictionary[Database, tuple[str, str, pd.DataFrame]] = WeakKeyDictionary()
"""Source, method and frame of the vocabulary's names in open databases."""


def shown_names(database: Database, components: Sequence[Component | str]) -> list[str]:
    """Return names to show; the ids of components if there are no labels."""
    names = component_names(database)
    return [*map(str, components)] if names is None else names.shown(components)


def unnamed(database: Database) -> pd.DataFrame:
    """Return a row without a label for every component."""
    columns = {"label": None, "rival": None, "confidence": np.nan}
    return pd.DataFrame(columns, index=np.arange(database.manifest.rows), dtype=object)
