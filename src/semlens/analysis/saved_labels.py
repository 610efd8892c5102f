"""Labels that a database keeps: which tables there are, and one of them by component."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from semlens.errors import ConceptError, nearest
from semlens.store.reader import Database
from semlens.types import Component

PREFIX = "labels-"
_WHO = ["layer", "index", "sign"]


@dataclass(frozen=True)
class SavedLabels:
    """One table of labels, as :meth:`semlens.analysis.label.Labels.save` keeps it."""

    name: str
    created: float
    """When it was written, in seconds since 1970."""
    components: int
    """How many components it speaks of."""
    labelled: int
    """How many of them have a label."""


def label_tables(database: Database) -> list[SavedLabels]:
    """Return the tables of labels of this very build, newest first."""
    found: list[SavedLabels] = []
    for file, made in database.kept_analyses(PREFIX):
        frame = database.load_analysis(file, ["label"])
        if frame is not None:
            labelled = int(np.count_nonzero(frame["label"].notna()))
            found.append(SavedLabels(file.removeprefix(PREFIX), made, len(frame), labelled))
    return found


def saved_labels(database: Database, name: str | None = None) -> pd.DataFrame | None:
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
    frame = saved_labels(database, name)
    labels = [] if frame is None else frame["label"]
    return {database.component(row): text for row, text in enumerate(labels) if text is not None}


@dataclass(frozen=True)
class LabelHit:
    """One component whose label contains the words."""

    rank: int
    component: Component
    row: int
    label: str
    alignment: float
    """With its label."""


@dataclass(frozen=True)
class LabelHits:
    """Components whose kept label contains some words, best aligned first."""

    query: str
    hits: tuple[LabelHit, ...]
    found: int
    """How many there are in all."""
    searched: int
    """How many components have a label."""


def search_labels(
    database: Database,
    texts: Sequence[str],
    *,
    without: Sequence[str] = (),
    top: int = 10,
    offset: int = 0,
    layers: Sequence[str] | None = None,
    name: str | None = None,
) -> LabelHits:
    """Rank components by kept labels that contain a text, best alignment first.

    A text is contained where each of its words begins a word of the label: ``stripe`` finds
    "striped fur", and ``ox`` does not find "box".

    Parameters
    ----------
    texts
        One of them has to be contained.
    without
        None of them may be.
    top, offset
        How many hits, and how many better ones are passed over.
    name
        Name of the labels; by default the newest ones.

    Raises
    ------
    ConceptError
        If there is no text, or no labels are kept.
    """
    if not any(_words(text) for text in texts):
        raise ConceptError("There is no text.", "Expected some words.", "Say what to look for.")
    table = saved_labels(database, name)
    if table is None:
        raise ConceptError(
            f"The database '{database.path}' keeps no labels to search in.",
            "Expected some: its embedder reads no texts.",
            f"Keep some: semlens label {database.path} --concepts SET --save NAME.",
        )
    rows = np.sort(database.rows(layers))
    mine = table.iloc[rows]
    rows, mine = rows[mine["label"].notna()], mine[mine["label"].notna()]
    labels: list[str] = mine["label"].tolist()
    values = mine["alignment"].to_numpy()
    places = np.flatnonzero(_contain(labels, texts) & ~_contain(labels, without))
    places = places[np.argsort(-values[places], kind="stable")]
    offset, top = max(offset, 0), max(top, 0)
    hits = tuple(
        LabelHit(rank, database.component(int(rows[i])), int(rows[i]), labels[i], float(values[i]))
        for rank, i in enumerate(places[offset : offset + top].tolist(), start=offset + 1)
    )
    query = " + ".join(texts) + "".join(f" - {text}" for text in without)
    return LabelHits(query, hits, len(places), len(rows))


def _contain(labels: list[str], texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    wanted = [words for words in map(_words, texts) if words]
    known = {label: _words(label) for label in set(labels)}
    hit = {
        label: any(
            all(any(word.startswith(part) for word in words) for part in parts) for parts in wanted
        )
        for label, words in known.items()
    }
    return np.array([hit[label] for label in labels], bool)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
