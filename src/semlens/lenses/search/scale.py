"""The scale of the bars of a search: the same for all queries of a database, so that they compare.

A bar that started at the best hit of its own query would be full for a query that nothing answers.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from semlens.lenses.concepts import ConceptSet
from semlens.lenses.noise import cached_on_database
from semlens.lenses.query_embedding import (
    SEARCH_TEMPLATES,
    QueryEmbedding,
    directions,
    embed_texts,
    null_vector,
)
from semlens.store.reader import Database

VOCABULARY, STEP = "paper-vocabulary", 10
"""The words that set the scale: every tenth of this set, from all of its categories."""
PICTURES = 1.0
"""A full bar for queries with images or components: the largest cosine."""
_STEPS = np.array([1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10])


def words_scale(database: Database) -> float:
    """Return the alignment of a full bar, for queries by words: it is kept in the database.

    The largest alignment of any component with any of 68 words, rounded up to a plain number.
    """

    def largest() -> float:
        words = [concept.name for concept in ConceptSet.load(VOCABULARY).concepts[::STEP]]

        def compute() -> pd.DataFrame:
            embedder = database.embedder
            vectors = embed_texts(embedder, words, SEARCH_TEMPLATES)
            null = null_vector(embedder, SEARCH_TEMPLATES)
            query = QueryEmbedding(vectors, tuple(words), null, embedder.fingerprint)
            rows = np.flatnonzero(database.has_examples)
            products = database.products(directions(query), rows)
            return pd.DataFrame({"largest": [float(products.max(initial=0))]})

        digests = [digest for name in database.layers for digest in database.digests(name)]
        key = [database.manifest.embedder.fingerprint, words, list(SEARCH_TEMPLATES), digests]
        return float(database.cached("search-scale", key, compute)["largest"].iloc[0])

    return plain_number(cached_on_database(database, ("search-scale",), largest))


def plain_number(value: float) -> float:
    """Round a positive number up to one or two digits: 1, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times 10^k.

    1 for numbers that are not positive.
    """
    if not value > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    step = _STEPS[np.searchsorted(_STEPS, value / power * (1 - 1e-9))]
    return float(f"{step * power:.2g}")
