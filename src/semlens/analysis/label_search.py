"""Search in kept labels: what is left to a database whose embedder reads no texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from semlens.analysis.kept_labels import kept_labels
from semlens.errors import ConceptError
from semlens.store.reader import Database
from semlens.types import Component


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
    table = kept_labels(database, name)
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
    kept = _contain(labels, texts) & ~_contain(labels, without)
    values = mine["alignment"].to_numpy()
    places = np.flatnonzero(kept)
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
