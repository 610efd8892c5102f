"""Correlation of readouts with similarities."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need


class Correlation(Labeller):
    """Pearson's correlation of a component's readouts and a word's cosines, on the reference.

    It is the simulation score of Oikarinen and Weng, Linear Explanations (arXiv:2405.06855), as a
    labelling method: the whole distribution counts, also the images that do not activate a
    component. 0 where either is constant.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference",)

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        columns = standardised(evidence.similarities).astype(np.float32) / len(
            evidence.similarities
        )
        readouts = evidence.sample[1]
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(len(readouts)):
            scores[block] = standardised(readouts[:, block]).astype(np.float32).T @ columns
        return scores


def standardised(values: Float32[np.ndarray, "s k"]) -> Float64[np.ndarray, "s k"]:
    """Return columns with mean 0 and standard deviation 1; zeros for a constant column."""
    rest = values - values.mean(0, dtype=np.float64)
    spread = rest.std(0)
    constant = spread <= 1e-6 * np.abs(values).max(0)  # up to rounding
    return np.where(constant, 0, rest / np.where(constant, 1, spread))
