"""CLIP-Dissect as in the code of Contrastive Semantic Projection."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from scipy.special import softmax

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.settings import setting

_MINIMUM = 1e-6
"""Added to the mean probability before its logarithm, as in the original."""
_IMAGES = 2048
"""Images of the background that are compared with the words in one step."""


class WeightedDissect(Labeller):
    """Log of the examples' mean probability of a word, less that of all images.

    With p_iw = softmax over words of (cosine of image i and word w / temperature) and weights a_i
    proportional to the readouts, the score is

        log(sum_i a_i p_iw + 1e-6) - prior_weight * log mean over the background of p_iw.

    The cosine is divided by 10, where CLIP-Dissect multiplies it by 10: the probabilities are
    almost equal, and the score almost the cosine of the words with the weighted mean of the
    examples less the mean of all images. The prior is over images, so that a component's labels
    do not depend on the others.

    Source: the code of Bouanani et al., Contrastive Semantic Projection, 2026 (arXiv:2604.22477),
    which calls it CLIP-Dissect; it differs from that paper's own formula (:class:`SoftWPMI`).
    Negative readouts, which it does not provide for, are shifted
    (:func:`semlens.streaming.aggregate.example_weights`).
    """

    needs: ClassVar[tuple[Need, ...]] = ("examples", "background")

    top: Annotated[int, setting("Number of examples.", ge=1)] = 30
    temperature: Annotated[float, setting("Divisor of the cosines in the softmax.", gt=0)] = 10.0
    prior_weight: Annotated[float, setting("Weight of the prior, lambda.", ge=0)] = 1.0

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        columns = evidence.words.T / np.float32(self.temperature)
        prior = self.prior_weight * np.log(self._prior(evidence, columns))
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(evidence.depth(self.top) * columns.shape[1]):
            probability = softmax(evidence.vectors(block, self.top) @ columns, axis=2)
            weight = evidence.weights(block, self.top, by_readout=True)
            mean = np.matmul(weight[:, None], probability)[:, 0].astype(np.float64)
            scores[block] = np.log(mean + _MINIMUM) - prior
        return scores

    def _prior(self, evidence: Evidence, columns: np.ndarray) -> np.ndarray:
        images, total = evidence.images_to_compare, np.zeros(columns.shape[1])
        for start in range(0, len(images), _IMAGES):
            probability = softmax(images[start : start + _IMAGES] @ columns, axis=1)
            total += probability.sum(0, dtype=np.float64)
        return total / len(images)
