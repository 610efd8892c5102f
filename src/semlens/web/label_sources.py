"""Sources of component labels: bundled concept sets, and labels saved in the database."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from semlens.analysis.concepts import ConceptSet, bundled_names
from semlens.analysis.describe.label_candidates import Candidates, candidates, saved_candidates
from semlens.analysis.noise import label_thresholds
from semlens.analysis.query_embedding import QueryEmbedding, embed_concepts
from semlens.analysis.saved_labels import label_tables
from semlens.errors import ConceptError, nearest
from semlens.web.app_state import AppState, ModelContext

DEFAULT_SET = "paper-vocabulary"
SAVED = "saved:"
"""Prefix for the name of a label table that is saved in the database."""


def label_sources(context: ModelContext) -> list[str]:
    """Return the names of all label sources: saved labels, newest first, then concept sets."""
    saved = [SAVED + table.name for table in label_tables(context.db)]
    if not context.db.embedder.has_text:
        return saved
    return [*saved, DEFAULT_SET, *(name for name in bundled_names() if name != DEFAULT_SET)]


def label_source(context: ModelContext, name: str | None) -> str | None:
    """Check the name of a label source; without a name, return the first source or None.

    Raises
    ------
    ConceptError
        If the source does not exist. File paths are refused, since the name comes from the page.
    """
    sources = label_sources(context)
    if name is None:
        return sources[0] if sources else None
    if name not in sources:
        raise ConceptError(
            f"Unknown concept set '{name}'.",
            f"The closest names are {nearest(name, sources)}." if sources else no_labels(context),
            "Choose one of them." if sources else "Build with an embedder of images and texts.",
        )
    return name


def no_labels(context: ModelContext) -> str:
    """Say why there is no label source."""
    spec = context.db.embedder.spec
    return f"The embedder '{spec}' cannot embed texts, and no labels are saved."


def label_rows(
    context: ModelContext,
    state: AppState,
    name: str,
    rows: Sequence[int],
    vectors: Float32[np.ndarray, "n d"] | None = None,
    counts: Sequence[int] | None = None,
    top: int = 1,
) -> list[Candidates | None]:
    """Return the label candidates of components; None for those without any.

    Parameters
    ----------
    name
        A name returned by :func:`label_source`.
    vectors
        Used instead of the components' concept vectors, for example means of some of their
        examples. Saved labels do not apply to them.
    counts
        Number of examples of each vector.

    Raises
    ------
    JobPending
        While the concepts are being embedded.
    """
    if name.startswith(SAVED):
        if vectors is not None:
            return [None] * len(rows)
        return saved_candidates(
            context.db, name.removeprefix(SAVED), np.asarray(rows, np.int64), top
        )
    concepts, embedding = _embedded(context, state, name)
    numbers = None if counts is None else np.asarray(counts, np.int64)
    thresholds = label_thresholds(context.db, np.asarray(rows, np.int64), embedding, counts=numbers)
    if vectors is not None:
        return list(candidates(vectors, embedding, concepts, thresholds, top))
    results = candidates(context.db.concept_vectors(rows), embedding, concepts, thresholds, top)
    alive = context.db.has_examples
    return [result if alive[row] else None for row, result in zip(rows, results, strict=True)]


def _embedded(
    context: ModelContext, state: AppState, name: str
) -> tuple[ConceptSet, QueryEmbedding]:
    """Embed a concept set once for all databases with the same embedder."""

    def compute() -> tuple[ConceptSet, QueryEmbedding]:
        concepts = ConceptSet.load(name)
        return concepts, embed_concepts(context.db, concepts)

    key = f"concepts {context.db.manifest.embedder.fingerprint} {name}"
    return state.jobs.result(key, f"Embedding the concepts of '{name}'", compute)
