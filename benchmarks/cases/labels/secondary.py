"""The secondary measures of many labels, each computed once, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64, Int64

from benchmarks.cases.labels.measures import OF_EXTENTS, Measure, Phi, pearson
from benchmarks.cases.labels.sanity import drops
from benchmarks.worlds.labelled.units import Units

MIXTURES = ("max", "sum")
"""Kinds of units of which no single word says everything."""
Columns = Callable[[Int64[np.ndarray, " k"]], np.ndarray]


class Scored:
    """Values of a measure for units and words, remembered.

    Parameters
    ----------
    readouts
        float[t n], of the units on unseen images.
    columns
        From k words to [t k], which unseen images they are true of, or how similar these are.
    words
        Number of words.
    similarities
        Whether columns are similarities.
    """

    def __init__(
        self,
        measure: Measure,
        readouts: np.ndarray,
        columns: Columns,
        words: int,
        *,
        similarities: bool = False,
    ) -> None:
        self.measure, self.columns, self.similarities = measure, columns, similarities
        self.readouts = np.ascontiguousarray(readouts.T.astype(np.float64))
        self._known = np.full((len(self.readouts), words), np.nan)

    def fill(self, words: Int64[np.ndarray, "n k"]) -> None:
        """Compute the values of k words for each unit, where they are not known."""
        for unit, asked in enumerate(words):
            missing = np.unique(asked[np.isnan(self._known[unit, asked])])
            if len(missing):
                values = self.measure(self.readouts[unit], self.columns(missing))
                self._known[unit, missing] = values

    def of(self, words: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return the value of one word for each unit."""
        self.fill(words[:, None])
        return self._known[np.arange(len(words)), words]


def of_extents(units: Units, rows: Int64[np.ndarray, " n"]) -> dict[str, Scored]:
    """Return the measures of annotations, which are the same for all embedders."""
    marks, readouts = units.unseen.annotations, units.unseen.readouts[:, rows]

    def columns(words: np.ndarray) -> np.ndarray:
        return marks[:, words].astype(np.float64)

    measures = {**OF_EXTENTS, "phi": Phi(marks)}
    return {name: Scored(one, readouts, columns, marks.shape[1]) for name, one in measures.items()}


def of_similarities(units: Units, seen_by: Units, rows: Int64[np.ndarray, " n"]) -> Scored:
    """Return the simulation score of words by the embedder of ``seen_by``."""
    similarity = (seen_by.unseen.vectors @ seen_by.evidence.words.T).astype(np.float64)
    readouts = units.unseen.readouts[:, rows]
    return Scored(
        pearson, readouts, lambda words: similarity[:, words], len(units.words), similarities=True
    )


def sanity(
    scored: Scored, units: Units, rows: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, "m 2"]:
    """Return for each unit with enough images whether missing and extra labels score less."""
    found = []
    for place, row in enumerate(rows):
        words = np.flatnonzero(units.right[row])
        extent = units.unseen.annotations[:, words].any(1)
        similarity = scored.columns(words).max(1) if scored.similarities else None
        dropped = drops(scored.measure, scored.readouts[place], extent, place, similarity)
        if dropped is not None:
            found.append(dropped)
    return np.array(found, float).reshape(-1, 2)


def prefers_right(
    scored: Scored,
    units: Units,
    rows: Int64[np.ndarray, " n"],
    wrong: Mapping[str, Int64[np.ndarray, " n"]],
) -> Float64[np.ndarray, " m"]:
    """Return for each method and unit whether the right word scores more than its best wrong one.

    1 for yes, 0 for no, 0.5 for equal scores. Mixtures are left out.
    """
    single = np.array([units.kind[row] not in MIXTURES for row in rows])
    right = scored.of(units.right[rows].argmax(1))
    found = [(np.sign(right - scored.of(words)) + 1) / 2 for words in wrong.values()]
    return np.concatenate([one[single] for one in found])
