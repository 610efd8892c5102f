"""Labels that a database keeps: which tables there are, and one of them by component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from semlens.errors import ConceptError, nearest
from semlens.store.reader import Database
from semlens.types import Component

PREFIX = "labels-"
_WHO = ["layer", "index", "sign"]


@dataclass(frozen=True)
class LabelTable:
    """One table of labels, as :meth:`semlens.analysis.label.Labels.save` keeps it."""

    name: str
    made: float
    """When it was written, in seconds since 1970."""
    components: int
    """How many components it speaks of."""
    labelled: int
    """How many of them have a label."""


def label_tables(database: Database) -> list[LabelTable]:
    """Return the tables of labels of this very build, newest first."""
    found: list[LabelTable] = []
    for file, made in database.kept_analyses(PREFIX):
        frame = database.load_analysis(file, ["label"])
        if frame is not None:
            counts = (len(frame), int(np.count_nonzero(frame["label"].notna())))
            found.append(LabelTable(file.removeprefix(PREFIX), made, *counts))
    return found


def kept_labels(database: Database, name: str | None = None) -> pd.DataFrame | None:
    """Return kept labels, a row for each component of the database: label, category, alignment.

    Parameters
    ----------
    name
        Name of the table; by default the newest one.

    Returns
    -------
    DataFrame or None
        None without a name where no table is kept. Where the table has no label there is None
        and, if it does not speak of the component at all, an alignment of NaN.

    Raises
    ------
    ConceptError
        If there is no table of this name.
    """
    names = [table.name for table in label_tables(database)]
    if name is not None and name not in names:
        raise ConceptError(
            f"The database '{database.path}' keeps no labels '{name}'.",
            f"It has {nearest(name, names)}." if names else "It has none of this build.",
            f"Run: semlens label {database.path} --save {name}",
        )
    if not names:
        return None
    columns = [*_WHO, "label", "category", "alignment"]
    table = database.load_analysis(PREFIX + (name or names[0]), columns)
    if table is None:  # it was removed just now
        return None
    merged: Any = database.components[_WHO].merge(table, on=_WHO, how="left", validate="1:1")
    for column in ("label", "category"):
        merged[column] = merged[column].astype(object).where(merged[column].notna(), None)
    merged["alignment"] = merged["alignment"].to_numpy(np.float64)
    return merged[["label", "category", "alignment"]]


def labels_by_component(database: Database, name: str) -> dict[Component, str]:
    """Return the labels of a kept table, without the components that have none.

    Raises
    ------
    ConceptError
        If there is no table of this name.
    """
    frame = kept_labels(database, name)
    labels = [] if frame is None else frame["label"]
    return {database.component(row): text for row, text in enumerate(labels) if text is not None}
