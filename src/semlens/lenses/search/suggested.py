"""Suggested searches: words that have hits in this database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from semlens.errors import ConceptError
from semlens.lenses.describe.overview import class_table
from semlens.lenses.labelling.component_labels import saved_names
from semlens.lenses.search.query import make_query
from semlens.lenses.search.search import rank
from semlens.store.reader import Database

GENERAL = (
    "watermark", "written text", "stripes", "human face", "water", "grass", "animal", "vehicle",
    "building", "food",
)  # fmt: skip
"""Words that suit many models; artefacts first."""
QUERIES = 8
_GENERAL_MOST = 3
_TRIED = 24
"""Labels, and classes, that are tried at most."""


@dataclass(frozen=True)
class SuggestedQuery:
    """A query that has hits, and where it comes from."""

    text: str
    origin: Literal["label", "class", "general"]


def suggested_queries(database: Database, count: int = QUERIES) -> list[SuggestedQuery]:
    """Return queries that have hits above noise: general ones, frequent labels, and classes.

    Without a text encoder these are the most frequent saved labels, in which words are looked up.
    """
    labels = [SuggestedQuery(text, "label") for text in _frequent_labels(database)]
    if not database.embedder.has_text:
        return labels[:count]
    classes = [SuggestedQuery(name, "class") for name in _spread_classes(database)]
    general = [SuggestedQuery(text, "general") for text in GENERAL]
    few = min(_GENERAL_MOST, count)
    found = list(islice(_with_hits(database, general), few))
    seen = {query.text.casefold() for query in found}
    labels = [query for query in labels[:_TRIED] if query.text.casefold() not in seen]
    found += islice(_with_hits(database, labels), (count - few + 1) // 2)
    for rest in (classes[:_TRIED], labels, general):
        seen = {query.text.casefold() for query in found}
        others = [query for query in rest if query.text.casefold() not in seen]
        found += islice(_with_hits(database, others), count - len(found))
    return found


def _with_hits(database: Database, queries: Iterable[SuggestedQuery]) -> Iterator[SuggestedQuery]:
    for query in queries:
        try:
            made = make_query(database, query.text)
        except ConceptError:  # the embedder knows nothing of it
            continue
        if rank(database, made, top=1).above_noise:
            yield query


def _frequent_labels(database: Database) -> list[str]:
    """Return the newest saved labels, the most frequent first."""
    names = saved_names(database)
    counts = Counter[str]() if names is None else Counter(names.frame["label"].dropna())
    return [text for text, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def _spread_classes(database: Database) -> list[str]:
    """Return classes evenly spread over their list: neighbours are often alike."""
    names = [str(name) for name in class_table(database)["name"]]
    spread = np.linspace(0, max(len(names) - 1, 0), min(_TRIED, len(names))).round().astype(int)
    return [names[i] for i in dict.fromkeys(spread.tolist()) if not names[i].isdecimal()]
