"""Scores of all words for components of a database, a block at a time, and what is above noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from semlens.analysis.centring import centred_vectors
from semlens.analysis.labelling.database_evidence import layer_evidence
from semlens.analysis.labelling.evidence import Evidence
from semlens.analysis.labelling.labeller import Labeller
from semlens.analysis.labelling.meaningless import meaningless
from semlens.analysis.labelling.registry import make_labeller
from semlens.analysis.noise import LEVEL, SEED, label_thresholds
from semlens.analysis.query_embedding import QueryEmbedding, alignment_blocks
from semlens.errors import RecipeError
from semlens.store.reader import Database

DEFAULT_METHOD = "semantic-lens"
"""Method of labels, if no other is asked for."""
MEANINGLESS = 1024
"""Components without a meaning that give the threshold of a layer."""


@dataclass(frozen=True, eq=False)
class ScoredBlock:
    """Scores of some components."""

    place: slice | Int64[np.ndarray, " b"]
    """Where they are among all."""
    scores: Float32[np.ndarray, "b q"]
    """May be overwritten by the next block."""
    thresholds: Float32[np.ndarray, " b"]
    """What the best score must exceed to be above noise; minus infinity if that is not known."""


def scored_blocks(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    method: str = DEFAULT_METHOD,
    *,
    threshold: float | None = None,
    centred: bool = False,
) -> Iterator[ScoredBlock]:
    """Score the words for components, by any method.

    SemanticLens compares the saved concept vectors, and its thresholds are those of
    :mod:`semlens.analysis.noise`. For another method, 5 % of components without a meaning
    (:func:`meaningless`) exceed the threshold of their layer. A method whose scores depend on the
    other components has none.

    Parameters
    ----------
    rows
        Components with examples.
    threshold
        A fixed threshold instead.
    centred
        Whether SemanticLens subtracts the mean of the layer's crops from the vectors.

    Raises
    ------
    RecipeError
        If there is no such method, or ``centred`` is set for another than SemanticLens.
    ConceptError
        If the database lacks what the method needs.
    """
    if method == DEFAULT_METHOD:
        least = label_thresholds(database, rows, embedding, threshold, centred=centred)
        vectors = (centred_vectors(database, rows),) if centred else (database.theta, rows)
        for place, scores in alignment_blocks(vectors[0], embedding, *vectors[1:]):
            yield ScoredBlock(place, scores, least[place])
        return
    if centred:
        raise RecipeError(
            f"'centred' is set, and the method is '{method}'.",
            f"Expected it with '{DEFAULT_METHOD}' only.",
            "Choose the method 'semantic-lens-centred', or leave 'centred' out.",
        )
    labeller = make_labeller(method)
    for entry in database.manifest.layers:
        place = np.flatnonzero((rows >= entry.first) & (rows < entry.first + entry.rows))
        if len(place):
            evidence = layer_evidence(database, entry.name, embedding, rows[place])
            scores = labeller.scores(evidence)
            least = _noise(labeller, evidence) if threshold is None else threshold
            yield ScoredBlock(place, scores, np.full(len(place), least, np.float32))


def _noise(labeller: Labeller, evidence: Evidence) -> float:
    if labeller.relative:
        return -np.inf
    best = labeller.scores(meaningless(evidence, MEANINGLESS, SEED)).max(1)
    return float(np.quantile(best, 1 - LEVEL, method="higher"))
