"""Sources of component labels: bundled concept sets, and labels saved in the database."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semlens.errors import ConceptError, nearest
from semlens.lenses.concepts import ConceptSet, bundled_names
from semlens.lenses.describe.label_candidates import (
    Candidates,
    ranked_candidates,
    saved_candidates,
)
from semlens.lenses.labelling.chosen_method import choose_method
from semlens.lenses.labelling.component_labels import (
    PREFIX,
    SAVED,
    ComponentNames,
    label_tables,
)
from semlens.lenses.labelling.label import VOCABULARY
from semlens.lenses.labelling.mixed import check_labels
from semlens.lenses.labelling.ranking import Ranking, rank_words
from semlens.lenses.labelling.scored_blocks import layer_places, rows_with_examples
from semlens.lenses.query_embedding import QueryEmbedding, embed_concepts
from semlens.web.app_state import AppState, ModelContext


def label_sources(context: ModelContext) -> list[str]:
    """Return the names of all label sources: saved labels, newest first, then concept sets."""
    saved = [SAVED + table.name for table in label_tables(context.db)]
    if not context.db.embedder.has_text:
        return saved
    return [*saved, VOCABULARY, *(name for name in bundled_names() if name != VOCABULARY)]


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
    top: int = 1,
) -> list[Candidates | None]:
    """Return the label candidates of components; None for those without any.

    Parameters
    ----------
    name
        A name returned by :func:`label_source`.

    Raises
    ------
    JobPending
        While the concepts are being embedded, or compared with the components of a layer.
    """
    if name.startswith(SAVED):
        return saved_candidates(
            context.db, name.removeprefix(SAVED), np.asarray(rows, np.int64), top
        )
    concepts, embedding = embedded_set(context, state, name)
    places = np.asarray(rows, np.int64)
    method = choose_method([context.db], None, len(concepts))
    results: list[Candidates | None] = [None] * len(rows)
    for layer, found in layer_places(context.db, places):

        def compute(layer: str = layer) -> Ranking:
            every = rows_with_examples(context.db, layer)
            ranked = rank_words(context.db, every, embedding, method, names=max(top, 2))
            return check_labels(context.db, ranked, embedding, method)

        ranked = state.jobs.result(
            f"labelled {context.number} {name} {layer} {max(top, 2)}",
            f"Labelling the components of {layer} with '{name}'",
            compute,
        )
        labelled = ranked_candidates(ranked, places[found], concepts, method, top)
        for place, result in zip(found.tolist(), labelled, strict=True):
            results[place] = result
    return results


def embedded_set(
    context: ModelContext, state: AppState, name: str
) -> tuple[ConceptSet, QueryEmbedding]:
    """Embed a concept set once for all databases with the same embedder."""

    def compute() -> tuple[ConceptSet, QueryEmbedding]:
        concepts = ConceptSet.load(name)
        return concepts, embed_concepts(context.db, concepts)

    key = f"concepts {context.db.manifest.embedder.fingerprint} {name}"
    return state.jobs.result(key, f"Embedding the concepts of '{name}'", compute)


def component_names(context: ModelContext, state: AppState) -> ComponentNames | None:
    """Return the names that components have on the command line as well.

    The rankings behind them are shared with the label candidates of the cards.

    Raises
    ------
    JobPending
        While the components are being labelled.
    """
    source = label_source(context, None)
    if source is None:
        return None
    db = context.db
    key = f"names {context.number} {source} {db.list_analyses(PREFIX)}"
    rows = np.flatnonzero(db.has_examples)
    if state.jobs.finished(key) is None:
        # one component per layer, so that each layer's labels are a job of their own
        layers = np.searchsorted([entry.first for entry in db.manifest.layers], rows, "right")
        first = rows[np.unique(layers, return_index=True)[1]]
        label_rows(context, state, source, first.tolist(), top=2)

    def compute() -> ComponentNames:
        found = label_rows(context, state, source, rows.tolist(), top=2)
        return ComponentNames.of_rows(
            db, source, next((one.method for one in found if one is not None), ""), rows,
            [one and one.label for one in found], [one and one.rival for one in found],
            [np.nan if one is None or one.confidence is None else one.confidence for one in found],
        )  # fmt: skip

    return state.jobs.result(key, "Reading the labels", compute, short=True)
