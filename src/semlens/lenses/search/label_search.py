"""Search in saved labels, for embedders that read no texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from semlens.errors import ConceptError
from semlens.lenses.labelling.component_labels import saved_labels
from semlens.store.reader import Database
from semlens.types import Component


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
