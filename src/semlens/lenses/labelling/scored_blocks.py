"""Scores of all words for components of a database, a block at a time, and what is above noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.lenses.labelling.chosen_method import ChosenMethod
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.noise import LEVEL, SEED, label_thresholds
from semlens.lenses.query_embedding import QueryEmbedding, alignment_blocks
from semlens.store import file_names
from semlens.store.reader import Database

MEANINGLESS = 1024
"""Components without a meaning that give the threshold of a layer."""
_ROUNDING = np.float32(1e-6)
"""So that components equal to those without a meaning are not above them: a layer with one crop."""


@dataclass(frozen=True, eq=False)
class ScoredBlock:
    """Scores of some components."""

    place: slice | Int64[np.ndarray, " b"]
    """Where they are among all."""
    scores: Float32[np.ndarray, "b q"]
    """May be overwritten by the next block."""


def scored_blocks(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    method: ChosenMethod,
) -> Iterator[ScoredBlock]:
    """Score the words for components, by any method.

    SemanticLens compares the saved concept vectors. A method whose scores depend on the other
    components scores each layer as a whole, so that the scores of a component are always the same.

    Parameters
    ----------
    rows
        Components with examples.

    Raises
    ------
    ConceptError
        If the database lacks what the method needs.
    """
    if method.uses_concept_vectors:
        for place, scores in alignment_blocks(database.theta, embedding, rows):
            yield ScoredBlock(place, scores)
        return
    for name, place in layer_places(database, rows):
        if method.labeller.relative:
            every = rows_with_examples(database, name)
            scores = method.labeller.scores(layer_evidence(database, name, embedding, every))
            scores = scores[np.searchsorted(every, rows[place])]
        else:
            evidence = layer_evidence(database, name, embedding, rows[place])
            scores = method.labeller.scores(evidence)
        yield ScoredBlock(place, scores)


def thresholds(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    method: ChosenMethod,
    threshold: float | None = None,
) -> Float32[np.ndarray, " n"]:
    """Return what the best score of each component must exceed to be above noise.

    For SemanticLens see :mod:`semlens.lenses.noise`. For another method, 5 % of components
    without a meaning (:func:`meaningless`) exceed the threshold of their layer, which is kept in
    the database. A method whose scores depend on the other components has none: minus infinity.

    Parameters
    ----------
    threshold
        A fixed threshold instead.
    """
    if threshold is not None:
        return np.full(len(rows), threshold, np.float32)
    if method.uses_concept_vectors:
        return label_thresholds(database, rows, embedding)
    least = np.full(len(rows), -np.inf, np.float32)
    if not method.labeller.relative:
        for name, place in layer_places(database, rows):
            noise = noise_scores(database, name, embedding, method)
            least[place] = np.quantile(noise, 1 - LEVEL, method="higher") + _ROUNDING
    return least


def noise_scores(
    database: Database, layer: str, embedding: QueryEmbedding, method: ChosenMethod
) -> Float32[np.ndarray, " c"]:
    """Return the best score of each of ``MEANINGLESS`` components; kept in the database."""

    def compute() -> pd.DataFrame:
        evidence = layer_evidence(database, layer, embedding)
        scores = method.labeller.scores(meaningless(evidence, MEANINGLESS, SEED))
        return pd.DataFrame({"best": scores.max(1)})

    key = [MEANINGLESS, SEED]
    table = cached_scores(database, "label-noise", layer, embedding, method, key, compute)
    return table["best"].to_numpy(np.float32)


def cached_scores(
    database: Database,
    kind: str,
    layer: str,
    embedding: QueryEmbedding,
    method: ChosenMethod,
    key: Sequence[object],
    compute: Callable[[], pd.DataFrame],
) -> pd.DataFrame:
    """Return a table that follows from a method's scores, and keep it in the database.

    Parameters
    ----------
    key
        What else determines it.
    """
    if method.key is None:
        return compute()
    digests = database.digests(layer)
    if database.reference is not None:
        files = database.manifest.files
        digests += [files[file_names.REFERENCE], files[file_names.reference_file(layer)]]
        digests += [str(database.manifest.reference_rows)]
    return database.cached(kind, [*digests, embedding.digest, method.key, *key], compute)


def layer_places(
    database: Database, rows: Int64[np.ndarray, " n"]
) -> Iterator[tuple[str, Int64[np.ndarray, " p"]]]:
    """Yield each layer that has some of the components, and their positions."""
    for entry in database.manifest.layers:
        place = np.flatnonzero((rows >= entry.first) & (rows < entry.first + entry.rows))
        if len(place):
            yield entry.name, place


def rows_with_examples(database: Database, layer: str) -> Int64[np.ndarray, " n"]:
    """Return the components of a layer that have examples."""
    rows = database.rows(layer)
    return rows[database.has_examples[rows]]
