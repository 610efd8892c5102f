"""Contrastive Semantic Projection (CSP)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.lenses.query_embedding import unit
from semlens.settings import setting


class ContrastiveProjection(Labeller):
    """Cosine of a word with what examples have beyond similar images that do not activate.

    Each example v loses gamma times its projection on the most similar image u of the reference
    sample whose readout is below the component's mean: v - gamma cos(v, u) u. The mean of these,
    weighted by readout, is compared with the words. An example without such an image, of a
    component with equal readouts, loses nothing.

    Source: Bouanani et al., Contrastive Semantic Projection, 2026 (arXiv:2604.22477), and its
    code. The paper names 100 examples; the code stores 100 and uses 30. Its images u are sought
    in the whole data, here in the reference sample, where the nearest is less near. It leaves
    out components that activate on 80 % of the images or more; here they are labelled. Negative
    readouts, which it does not provide for, are shifted
    (:func:`semlens.streaming.aggregate.example_weights`).
    """

    needs: ClassVar[tuple[Need, ...]] = ("examples", "reference")

    gamma: Annotated[float, setting("Share of the projection that is subtracted.", ge=0, le=1)] = (
        0.5
    )
    top: Annotated[int, setting("Number of examples.", ge=1)] = 30

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        sample, readouts = evidence.sample
        below = (readouts < readouts.mean(0, dtype=np.float64)).T.copy()
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(evidence.depth(self.top) * len(sample)):
            vectors = evidence.vectors(block, self.top)
            cosine = vectors @ sample.T
            np.copyto(cosine, -2, where=~below[block, None])
            nearest = cosine.argmax(2)
            largest = np.take_along_axis(cosine, nearest[:, :, None], 2)
            largest[largest < -1.5] = 0
            rest = vectors - np.float32(self.gamma) * largest * sample[nearest]
            weight = evidence.weights(block, self.top, by_readout=True)
            scores[block] = unit(np.matmul(weight[:, None], rest)[:, 0]) @ evidence.words.T
        return scores
