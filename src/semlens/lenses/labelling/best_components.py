"""The best component of each word, layer by layer; kept in the database."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.lenses.labelling.chosen_method import ChosenMethod
from semlens.lenses.labelling.scored_blocks import (
    ScoredBlock,
    cached_scores,
    layer_places,
    scored_blocks,
)
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
