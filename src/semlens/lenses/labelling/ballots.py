"""How images vote on words, and scores from their votes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, Float64, Int64
from scipy.sparse import coo_array
from scipy.special import softmax

from semlens.lenses.query_embedding import unit

_SMALLEST = 1e-9
"""Smallest standard deviation that is divided by."""
_IMAGES = 2048
"""Images that vote in one step."""


@dataclass(frozen=True, eq=False)
class Ballots:
    """How images vote on some words, calibrated on a background."""

    centre: Float32[np.ndarray, " d"]
    words: Float32[np.ndarray, "q d"]
    mean: Float32[np.ndarray, " q"]
    scale: Float32[np.ndarray, " q"]
    expected: Float64[np.ndarray, " q"]
    """Mean vote of the background."""
    spread: Float64[np.ndarray, " q"]
    """Its standard deviation, to the power of kappa / 2."""

    @classmethod
    def calibrate(
        cls,
        background: Float32[np.ndarray, "b d"],
        words: Float32[np.ndarray, "q d"],
        kappa: float,
        tau: float,
    ) -> Ballots:
        """Measure means and deviations on a background.

        Parameters
        ----------
        words
            float32[q d], centred.
        """
        centre = background.mean(0, dtype=np.float64).astype(np.float32)
        starts = range(0, len(background), _IMAGES)
        chunks = [unit(background[start : start + _IMAGES] - centre) for start in starts]
        mean, deviation = _moments(chunk @ words.T for chunk in chunks)
        common = np.sqrt((deviation**2).mean())
        scale = tau * np.maximum(deviation, _SMALLEST) ** (kappa / 2)
        scale = scale * max(common, _SMALLEST) ** (1 - kappa / 2)
        mean, scale = mean.astype(np.float32), scale.astype(np.float32)
        expected, spread = _moments(softmax((c @ words.T - mean) / scale, axis=1) for c in chunks)
        spread = np.maximum(spread, _SMALLEST) ** (kappa / 2)
        return cls(centre, words, mean, scale, expected, spread)

    def of(self, images: Float32[np.ndarray, "i d"]) -> Float32[np.ndarray, "i q"]:
        """Return the vote of each image on each word; the votes of an image sum to 1."""
        products = unit(images - self.centre) @ self.words.T
        return softmax((products - self.mean) / self.scale, axis=1)

    def scores(self, images: Float32[np.ndarray, "i d"]) -> Float32[np.ndarray, "i q"]:
        """Return what each image alone says for each word: its vote above that of the background.

        The score of a component is a weighted mean of these.
        """
        return ((self.of(images) - self.expected) / self.spread).astype(np.float32)

    def weighted_sums(
        self,
        images: Float32[np.ndarray, "u d"] | Float16[np.ndarray, "u d"],
        rows: Int64[np.ndarray, "n m"],
        weight: Float32[np.ndarray, "n m"],
    ) -> Float32[np.ndarray, "n q"]:
        """Return the sum over m images, for each of n components, of weight times score.

        Each image votes once, however many components share it.

        Parameters
        ----------
        rows
            Rows of ``images``; any number where the weight is 0.
        """
        sums = np.zeros((len(rows), len(self.words)), np.float32)
        component, place = np.nonzero(weight)
        row, image = np.unique(rows[component, place], return_inverse=True)
        shape = len(rows), len(row)
        entries = coo_array((weight[component, place], (component, image)), shape=shape).tocsc()
        for start in range(0, len(row), _IMAGES):
            some = slice(start, start + _IMAGES)
            part = entries[:, some].tocsr()
            present = np.flatnonzero(np.diff(part.indptr))
            sums[present] += part[present] @ self.scores(images[row[some]].astype(np.float32))
        return sums


def _moments(
    chunks: Iterable[Float32[np.ndarray, "_ q"]],
) -> tuple[Float64[np.ndarray, " q"], Float64[np.ndarray, " q"]]:
    """Return mean and standard deviation of each column of stacked arrays.

    Values are small and near to their mean, so that sums of squares in 64 bits are exact enough.
    """
    count, total, squares = 0, np.float64(0), np.float64(0)
    for chunk in chunks:
        count += len(chunk)
        total = total + chunk.sum(0, dtype=np.float64)
        squares = squares + np.einsum("bq,bq->q", chunk, chunk, dtype=np.float64)
    mean = np.asarray(total / count)
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))
