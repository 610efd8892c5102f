"""What components are called here: saved labels, or else those of the paper's vocabulary.

Every view and every lens that shows a label asks this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.errors import ConceptError, StoreError, nearest
from semlens.lenses.concepts import Concepts, remote_concepts
from semlens.lenses.labelling.confidence import as_shown, rival
from semlens.lenses.labelling.label import VOCABULARY, label
from semlens.lenses.labelling.labels import Labels
from semlens.lenses.noise import cached_on_database
from semlens.settings import Remote, setting
from semlens.store.reader import Database
from semlens.types import Component, Layers

NAMES = "names"
"""The names of components as a source of labels, beside concept sets."""
SAVED = "saved:"
"""Prefix of the name of a label table that is saved in the database."""
PREFIX = "labels-"
_KEYS = ["layer", "index", "sign"]
_SCORED = ["score", "scores", "method", "confidence"]


@dataclass(frozen=True)
class SavedLabels:
    """One table of labels, as ``Labels.save_to_database`` writes it."""

    name: str
    created: float
    """When it was written, in seconds since 1970."""
    components: int
    """Number of components in the table."""
    labelled: int
    """Number of these with a label."""


def label_tables(database: Database) -> list[SavedLabels]:
    """Return the label tables of the current build, newest first; without unreadable ones."""
    tables: list[SavedLabels] = []
    for file, modified in database.list_analyses(PREFIX):
        try:
            frame = database.load_analysis(file, ["label", *_SCORED])
        except StoreError:  # damaged, or of another version: labels can be saved again
            continue
        if frame is not None:
            labelled = int(np.count_nonzero(frame["label"].notna()))
            tables.append(SavedLabels(file.removeprefix(PREFIX), modified, len(frame), labelled))
    return tables


def saved_labels(database: Database, name: str | None = None) -> pd.DataFrame | None:
    """Return saved labels, one row per component of the database.

    Columns: label, category, score, confidence, and rival, the word that may be right instead
    (:func:`semlens.lenses.labelling.confidence.rival`).

    Parameters
    ----------
    name
        Name of the table; by default the newest one.

    Returns
    -------
    DataFrame or None
        None if no name is given and no table is saved. A missing label or rival is None;
        a component that is not in the table has a score of NaN.

    Raises
    ------
    ConceptError
        If there is no table of this name.
    """
    names = [table.name for table in label_tables(database)]
    if name is not None and name not in names:
        raise ConceptError(
            f"The database '{database.location}' has no saved labels '{name}'.",
            f"It has {nearest(name, names)}." if names else "It has none of this build.",
            f"Save some with db.label().save_to_database({name!r}), or: semlens label "
            f"{database.location} --keep {name}",
        )
    if not names:
        return None
    columns = [*_KEYS, "label", "category", "score", "confidence", "candidates", "scores"]
    table = database.load_analysis(PREFIX + (name or names[0]), columns)
    if table is None:  # removed in the meantime
        return None
    merged: Any = database.components[_KEYS].merge(table, on=_KEYS, how="left", validate="1:1")
    for column in ("label", "category"):
        merged[column] = merged[column].astype(object).where(merged[column].notna(), None)
    for column in ("score", "confidence"):
        merged[column] = merged[column].to_numpy(np.float64)
    read = (merged[name] for name in ("label", "candidates", "scores", "confidence"))
    rivals = [
        None if label is None else rival(label, list(words), list(scores), confidence)
        for label, words, scores, confidence in zip(*read, strict=True)
    ]
    merged["rival"] = pd.Series(rivals, dtype=object)  # otherwise pandas turns None into NaN
    return merged[["label", "category", "score", "confidence", "rival"]]


def labels_by_component(database: Database, name: str) -> dict[Component, str]:
    """Return the labels of a saved table, without components that have none.

    Raises
    ------
    ConceptError
        If there is no table of this name.
    """
    frame = saved_labels(database, name)
    labels = [] if frame is None else frame["label"]
    return {database.component(row): text for row, text in enumerate(labels) if text is not None}


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
        frame: Any = saved_labels(database, table)
        methods = database.load_analysis(PREFIX + table, ["method"])
        method = "" if methods is None or methods.empty else str(methods["method"].iat[0])
        if frame is None:  # removed in the meantime
            return cls.of_rows(database, SAVED + table, method, np.zeros(0, np.int64), (), (), ())
        return cls(SAVED + table, method, frame[["label", "rival", "confidence"]], database)

    @classmethod
    def of_labels(cls, labels: Labels) -> ComponentNames:
        """Take the labels of a concept set."""
        table: Any = labels.to_pandas()
        # pandas turns a missing label into NaN
        table["label"] = table["label"].astype(object).where(table["label"].notna(), None)
        columns = (table[name] for name in ("label", "candidates", "scores", "confidence"))
        return cls.of_rows(
            labels.database, labels.concepts.name, str(labels.chosen), labels.rows,
            table["label"].tolist(), [rival(*values) for values in zip(*columns, strict=True)],
            table["confidence"].tolist(),
        )  # fmt: skip

    @classmethod
    def of_rows(
        cls,
        database: Database,
        source: str,
        method: str,
        rows: Int64[np.ndarray, " n"],
        labels: Sequence[str | None],
        rivals: Sequence[str | None],
        confidence: Sequence[float],
    ) -> ComponentNames:
        """Take the labels of some rows; the other components have none."""
        every = np.arange(database.manifest.rows)
        columns = {"label": None, "rival": None, "confidence": np.nan}
        frame = pd.DataFrame(columns, index=every, dtype=object)
        for name, values in (("label", labels), ("rival", rivals), ("confidence", confidence)):
            frame.loc[rows, name] = pd.Series([*values], rows, object)
        return cls(source, method, frame.astype({"confidence": np.float64}), database)

    def of(self, component: Component | str) -> str | None:
        """Return the label of a component, or None."""
        found: str | None = self.frame["label"].iat[self.database.rows_of(component)[0]]
        return found

    def shown(self, components: Sequence[Component | str]) -> list[str]:
        """Return names to show: the label, marked if it is unsure, or else the component's id."""
        labels = self.shown_labels(self.database.rows_of([*components]))
        return [label or str(one) for one, label in zip(components, labels, strict=True)]

    def shown_labels(self, rows: Sequence[int]) -> list[str | None]:
        """Return the labels of rows, marked if they are unsure, or None."""
        records = self.frame.iloc[[*rows]].to_dict("records")
        return [as_shown(one["label"], one["confidence"], one["rival"]) for one in records]


def saved_names(database: Database) -> ComponentNames | None:
    """Return what components are called by the newest saved labels; None if none are saved.

    They are read again once a table was saved, changed or removed.
    """
    tables = database.list_analyses(PREFIX)
    last: dict[str, Any] = cached_on_database(database, ("saved-names",), dict)
    if last.get("tables") != tables:
        newest = label_tables(database)[:1]
        names = [ComponentNames.of_saved(database, table.name) for table in newest]
        # without the database, which would otherwise hold itself
        last["names"] = [(one.source, one.method, one.frame) for one in names]
        last["tables"] = tables
    kept: list[tuple[str, str, pd.DataFrame]] = last["names"]
    return next((ComponentNames(*one, database) for one in kept), None)


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
    saved = saved_names(database)
    if saved is not None:
        return saved
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


NO_LABELS = "none"
ComponentLabels = Labels | ComponentNames | Mapping[Component, str] | None
"""Labels by component; None for no labels."""
LabelSource = Annotated[
    Concepts | Labels | Mapping[Component, str] | None,
    setting(
        "Concepts that label the components: file, folder or name of a bundled set; repeat to "
        "combine several; 'names' for the newest saved labels, or else the paper's vocabulary; "
        "'none' for no labels."
    ),
    Remote(
        str | list[str],
        "concepts",
        lambda database, source: (
            source if source in (NAMES, NO_LABELS) else remote_concepts(database, source)
        ),
        "Labels: 'names' for the newest saved ones, names of bundled concept sets, texts, or "
        "'none'.",
    ),
]
"""Source of the labels that a question shows."""


class UnlabelledWarning(UserWarning):
    """Components have no labels because the database's embedder reads no texts."""


def as_labels(
    database: Database,
    source: LabelSource,
    layers: Layers = None,
    threshold: float | None = None,
) -> ComponentLabels:
    """Return the labels of components of some layers, from any kind of source.

    Concepts give the labels that ``db.label`` gives by default. ``names`` are those that
    components have everywhere; with a threshold, labels of the paper's vocabulary.

    Raises
    ------
    ConceptError
        If there is no such concept set.
    """
    if source is None or source == NO_LABELS:
        return None
    if isinstance(source, Labels):
        return source
    if isinstance(source, Mapping) and all(isinstance(key, Component) for key in source):
        return cast(Mapping[Component, str], source)
    if source in (NAMES, VOCABULARY) and not database.embedder.has_text:
        saved = component_names(database) if source == NAMES else None
        if saved is not None:
            return saved
        message = "Components have no labels because the database's embedder reads no texts."
        warnings.warn(message, UnlabelledWarning, stacklevel=4)
        return None
    if source == NAMES:
        if threshold is None:
            return component_names(database, layers)
        source = VOCABULARY
    return label(database, cast(Any, source), layers=layers, threshold=threshold)


def label_of(labels: ComponentLabels, component: Component) -> str | None:
    """Return the label of a component, or None."""
    if isinstance(labels, Labels | ComponentNames):
        return labels.of(component)
    return None if labels is None else labels.get(component)
