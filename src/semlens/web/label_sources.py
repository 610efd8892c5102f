"""What components are named with on request: a bundled concept set, or labels that are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from semlens.analysis.concepts import ConceptSet, bundled_names
from semlens.analysis.describe.label_candidates import Candidates, candidates, saved_candidates
from semlens.analysis.query_embedding import QueryEmbedding, embed_concepts
from semlens.analysis.saved_labels import label_tables
from semlens.errors import ConceptError, nearest
from semlens.web.app_state import AppState, ModelContext

GENERAL = "paper-vocabulary"
KEPT = "kept:"
"""Before the name of a table of labels that the database keeps."""


def choices(served: ModelContext) -> list[str]:
    """Return what components can be named with: kept labels, newest first, then sets."""
    kept = [KEPT + table.name for table in label_tables(served.db)]
    if not served.db.embedder.has_text:
        return kept
    return [*kept, GENERAL, *(name for name in bundled_names() if name != GENERAL)]


def chosen(served: ModelContext, name: str | None) -> str | None:
    """Return a choice by its name, or the first one; None where there is none.

    Raises
    ------
    ConceptError
        If there is no such choice. A path is never one: it would come from the page.
    """
    known = choices(served)
    if name is None:
        return known[0] if known else None
    if name not in known:
        raise ConceptError(
            f"There are no concepts '{name}'.",
            f"The nearest ones are {nearest(name, known)}." if known else lacking(served),
            "Choose one of them." if known else "Build with an embedder of images and texts.",
        )
    return name


def lacking(served: ModelContext) -> str:
    """Say why there is nothing to name components with."""
    return f"The embedder '{served.db.embedder.spec}' reads no texts, and no labels are kept."


def named(
    served: ModelContext,
    serving: AppState,
    name: str,
    rows: Sequence[int],
    vectors: Float32[np.ndarray, "n d"] | None = None,
    top: int = 1,
) -> list[Candidates | None]:
    """Name components by what :func:`chosen` gave; None for those of which nothing is known.

    Parameters
    ----------
    vectors
        Other vectors than the components' own, such as means of some of their examples. Kept
        labels say nothing of those.

    Raises
    ------
    StillWorking
        If the concepts are being embedded.
    """
    own = vectors is None
    if name.startswith(KEPT):
        if not own:
            return [None] * len(rows)
        return saved_candidates(served.db, name.removeprefix(KEPT), np.asarray(rows, np.int64), top)
    concepts, probe = _embedded(served, serving, name)
    given = served.db.concept_vectors(rows) if vectors is None else vectors
    found = candidates(given, probe, concepts, top)
    alive = served.db.has_examples
    return [one if alive[row] or not own else None for row, one in zip(rows, found, strict=True)]


def _embedded(
    served: ModelContext, serving: AppState, name: str
) -> tuple[ConceptSet, QueryEmbedding]:
    """Embed a set once for all databases of the same embedder."""

    def make() -> tuple[ConceptSet, QueryEmbedding]:
        concepts = ConceptSet.load(name)
        return concepts, embed_concepts(served.db, concepts)

    key = f"concepts {served.db.manifest.embedder.fingerprint} {name}"
    return serving.work.result(key, f"embedding the concepts of '{name}'", make)
