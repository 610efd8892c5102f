"""The best words of components, best first; kept in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64

from semlens.lenses.labelling.chosen_method import ChosenMethod
from semlens.lenses.labelling.confidence import calibrations_of, confidence_of
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.scored_blocks import (
    MEANINGLESS,
    ScoredBlock,
    cached_scores,
    layer_places,
    rows_with_examples,
    scored_blocks,
    thresholds,
)
from semlens.lenses.noise import SEED
from semlens.lenses.query_embedding import QueryEmbedding
from semlens.store.reader import Database


@dataclass(frozen=True, eq=False)
class BestComponents:
    """The component with the largest score for each of q words, the first of equal ones.

    Parameters
    ----------
    place
        int64[q], where the component is among those that were compared.
    score
        float32[q], its score for the word; minus infinity if there are no components.
    """

    place: Int64[np.ndarray, " q"]
    score: Float32[np.ndarray, " q"]

    @classmethod
    def none(cls, words: int) -> BestComponents:
        """Return those of no components."""
        return cls(np.zeros(words, np.int64), np.full(words, -np.inf, np.float32))

    def take(self, place: Int64[np.ndarray, " q"], score: Float32[np.ndarray, " q"]) -> None:
        """Replace those that others, which come later, exceed."""
        better = score > self.score
        self.place[better], self.score[better] = place[better], score[better]


def best_components(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    method: ChosenMethod,
) -> BestComponents:
    """Return the best of some components with examples for each word.

    The scores of a method that compares examples are computed once for the components of a layer.
    """
    best = BestComponents.none(len(embedding.names))
    for layer, place in layer_places(database, rows):
        found = best_of_layer(database, layer, rows[place], embedding, method)
        best.take(place[found.place], found.score)
    return best


def best_of_layer(
    database: Database,
    layer: str,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    method: ChosenMethod,
    scores: Float32[np.ndarray, "n q"] | None = None,
) -> BestComponents:
    """Return the best of some components of one layer; kept in the database.

    Parameters
    ----------
    scores
        Those of the components, if they were computed for something else.
    """

    def compute() -> pd.DataFrame:
        best = BestComponents.none(len(embedding.names))
        blocks = (
            scored_blocks(database, rows, embedding, method)
            if scores is None
            else [ScoredBlock(slice(None), scores)]
        )
        for block in blocks:
            place = np.arange(len(rows))[block.place]
            best.take(place[block.scores.argmax(0)], block.scores.max(0))
        return pd.DataFrame({"place": best.place, "score": best.score})

    key = rows.tolist()
    table = cached_scores(database, "label-components", layer, embedding, method, key, compute)
    return BestComponents(table["place"].to_numpy(np.int64), table["score"].to_numpy(np.float32))


DEPTH = 16
"""Words of each component that are kept, if no more are asked for."""
MIXED_BELOW = 0.5
"""Share of examples that show a label, below which it is mixed."""
PARTS = 3
"""Words of a mixed label at most."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best words of n components.

    Parameters
    ----------
    rows
        int64[n], the components' rows.
    concept, score
        int64 and float32[n k], indices of the words and their scores, best first.
    thresholds
        float32[n], what the best score must exceed to be above noise; minus infinity if that is
        not known.
    confidence
        float32[n], the probability that the best word is right; NaN where it is not known.
    shown
        float32[n], the share of a component's examples that show its best word
        (:mod:`semlens.lenses.labelling.mixed`); NaN where that was not checked.
    parts
        int64[n 3], the words that a mixed label is made of; -1 for none.
    """

    rows: Int64[np.ndarray, " n"]
    concept: Int64[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]
    thresholds: Float32[np.ndarray, " n"]
    confidence: Float32[np.ndarray, " n"]
    shown: Float32[np.ndarray, " n"]
    parts: Int64[np.ndarray, "n p"]

    @property
    def is_labelled(self) -> Bool[np.ndarray, " n"]:
        """Whether the best word of each component is above noise."""
        return self.score[:, 0] > self.thresholds

    @property
    def is_mixed(self) -> Bool[np.ndarray, " n"]:
        """Whether a component has a label that fewer than half of its examples show."""
        return self.is_labelled & (self.shown < MIXED_BELOW)

    def labels(self, names: Sequence[str]) -> list[str | None]:
        """Return the label of each component: a word, several of a mixed one, or None.

        Parameters
        ----------
        names
            Names of all words.
        """
        best: list[int] = self.concept[:, 0].tolist()
        kinds = zip(best, self.is_labelled.tolist(), self.is_mixed.tolist(), strict=True)
        return [
            None if not above else mixed_label(names, self.parts[at]) if mixed else names[word]
            for at, (word, above, mixed) in enumerate(kinds)
        ]

    def best(self, position: int, names: Sequence[str], count: int) -> list[tuple[int, float]]:
        """Return the best words with their scores, best first, each name once.

        Parameters
        ----------
        names
            Names of all words, of which several may be equal.
        """
        best: dict[str, tuple[int, float]] = {}
        concept: list[int] = self.concept[position].tolist()
        score: list[float] = self.score[position].tolist()
        for index, value in zip(concept, score, strict=True):
            best.setdefault(names[index], (index, value))
        return list(best.values())[:count]


def mixed_label(names: Sequence[str], parts: Int64[np.ndarray, " p"]) -> str:
    """Return the label of a component whose examples show different things."""
    words: list[int] = parts[parts >= 0].tolist()
    shown = ", ".join([names[word] for word in words])
    return f"mixed: {shown}" if shown else "mixed"


def rank_words(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    method: ChosenMethod,
    *,
    names: int = 1,
    entries: int = 1,
    threshold: float | None = None,
) -> Ranking:
    """Rank the words of components with examples.

    Parameters
    ----------
    names, entries
        How many distinct names, and how many words, to return at least, as far as there are.
    threshold
        A fixed threshold.
    """
    repeated = int(np.unique(embedding.names, return_counts=True)[1].max())
    kept = 1 if method.uses_concept_vectors else DEPTH  # only what takes long to compute is kept
    depth = max(kept, entries, (names - 1) * repeated + 1)
    depth = min(depth, len(embedding.names))
    concept = np.zeros((len(rows), depth), np.int64)
    score = np.zeros((len(rows), depth), np.float32)
    confidence = np.full(len(rows), np.nan, np.float32)
    if method.uses_concept_vectors:
        for block in scored_blocks(database, rows, embedding, method):
            concept[block.place], score[block.place] = _top_k(block.scores, depth)
    else:
        for layer, place in layer_places(database, rows):
            every = rows_with_examples(database, layer)
            table = _layer_table(database, layer, every, embedding, method, depth)
            found = np.searchsorted(every, rows[place])
            concept[place] = table["concept"].to_numpy(np.int64).reshape(-1, depth)[found]
            score[place] = table["score"].to_numpy(np.float32).reshape(-1, depth)[found]
            confidence[place] = table["confidence"].to_numpy(np.float32)[::depth][found]
    least = thresholds(database, rows, embedding, method, threshold)
    unchecked = np.full(len(rows), np.nan, np.float32), np.full((len(rows), PARTS), -1)
    return Ranking(rows, concept, score, least, confidence, *unchecked)


def _layer_table(
    database: Database,
    layer: str,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    method: ChosenMethod,
    depth: int,
) -> pd.DataFrame:
    def compute() -> pd.DataFrame:
        evidence = layer_evidence(database, layer, embedding, rows)
        scores = method.labeller.scores(evidence)
        confidence = _confidence(database, evidence, scores, method)
        if method.key is not None:  # dissection needs them, and scores take long to compute
            best_of_layer(database, layer, rows, embedding, method, scores)
        concept, score = _top_k(scores, depth)
        return pd.DataFrame(
            {
                "concept": concept.astype(np.int32).ravel(),
                "score": score.ravel(),
                "confidence": np.repeat(confidence, depth),
            }
        )

    key = [depth, *map(repr, calibrations_of(method.name))]
    return cached_scores(database, "label-scores", layer, embedding, method, key, compute)


def _confidence(
    database: Database,
    evidence: Evidence,
    scores: Float32[np.ndarray, "n q"],
    method: ChosenMethod,
) -> Float32[np.ndarray, " n"]:
    """Return the probability that each best word is right; NaN without a calibration."""
    unknown = np.full(len(scores), np.nan, np.float32)
    if not any(one.parameters == method.parameters for one in calibrations_of(method.name)):
        return unknown
    noise = method.labeller.scores(meaningless(evidence, MEANINGLESS, SEED))
    embedder = database.manifest.embedder.fingerprint
    found = confidence_of(embedder, method.name, scores, evidence, noise)
    return unknown if found is None else found.values


def _top_k(
    values: Float32[np.ndarray, "n q"], count: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Return indices and values of the largest entries of each row; ties by index.

    Overwrites ``values``: for a few entries, repeated maxima are much faster than sorting.
    """
    if count > DEPTH:
        indices = np.argsort(-values, axis=1, kind="stable")[:, :count]
        return indices, np.take_along_axis(values, indices, 1)
    indices = np.zeros((len(values), count), np.int64)
    largest = np.zeros((len(values), count), np.float32)
    row = np.arange(len(values))
    for rank in range(count):
        indices[:, rank] = values.argmax(1)
        largest[:, rank] = values[row, indices[:, rank]]
        values[row, indices[:, rank]] = -np.inf
    return indices, largest
