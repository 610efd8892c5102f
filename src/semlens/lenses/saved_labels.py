"""Labels saved in a database: the tables, their content by component, and search in labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from semlens.errors import ConceptError, StoreError, nearest
from semlens.lenses.labelling.confidence import rival
from semlens.store.reader import Database
from semlens.types import Component

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


@dataclass(frozen=True)
class LabelHit:
    """One component whose label matches the query."""

    rank: int
    component: Component
    row: int
    label: str
    score: float
    """Score of its label, by the method of the saved labels."""
    confidence: float | None
    """Probability that its label is right; None if unknown."""


@dataclass(frozen=True)
class LabelHits:
    """Components whose saved label matches a query, the most likely label first."""

    query: str
    hits: tuple[LabelHit, ...]
    total: int
    """Number of matches in total."""
    searched: int
    """Number of components with a label."""


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
    """Search saved labels for texts: the most likely label first, then by score.

    A label matches a text if each word of the text is a prefix of a word of the label:
    ``stripe`` matches "striped fur", ``ox`` does not match "box".

    Parameters
    ----------
    texts
        The label must match at least one of these.
    without
        The label must match none of these.
    top, offset
        Number of hits, and number of better hits to skip.
    name
        Name of the labels; by default the newest ones.

    Raises
    ------
    ConceptError
        If there is no text, or the database has no saved labels.
    """
    if not any(_words(text) for text in texts):
        raise ConceptError("There is no text.", "Expected one or more words.", "Give at least one.")
    table = saved_labels(database, name)
    if table is None:
        raise ConceptError(
            f"The database '{database.location}' has no saved labels to search.",
            "Expected some, because its embedder reads no texts.",
            "Save some with Labels.save_to_database(), or: semlens label "
            f"{database.location} --concepts SET --keep NAME",
        )
    rows = np.sort(database.rows(layers))
    labelled = table.iloc[rows]
    rows, labelled = rows[labelled["label"].notna()], labelled[labelled["label"].notna()]
    labels: list[str] = labelled["label"].tolist()
    values, sure = (labelled[name].to_numpy() for name in ("score", "confidence"))
    matches = np.flatnonzero(_matches(labels, texts) & ~_matches(labels, without))
    matches = matches[np.lexsort((-values[matches], -np.nan_to_num(sure[matches], nan=-1)))]
    offset, top = max(offset, 0), max(top, 0)
    hits = tuple(
        LabelHit(
            rank, database.component(int(rows[i])), int(rows[i]),
            labels[i], float(values[i]), None if np.isnan(sure[i]) else float(sure[i]),
        )
        for rank, i in enumerate(matches[offset : offset + top].tolist(), start=offset + 1)
    )  # fmt: skip
    query = " + ".join(texts) + "".join(f" - {text}" for text in without)
    return LabelHits(query, hits, len(matches), len(rows))


def _matches(labels: list[str], texts: Sequence[str]) -> Bool[np.ndarray, " n"]:
    queries = [words for words in map(_words, texts) if words]
    words_of_label = {label: _words(label) for label in set(labels)}
    is_match = {
        label: any(
            all(any(word.startswith(prefix) for word in words) for prefix in query)
            for query in queries
        )
        for label, words in words_of_label.items()
    }
    return np.array([is_match[label] for label in labels], bool)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
