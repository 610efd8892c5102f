"""INVERT: how well a component detects the images that show a concept."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Float32

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.settings import setting


class Invert(Labeller):
    """Area under the ROC curve of the readouts, for the images that a word is most similar to.

    The score is P(readout of an image with the concept > readout of one without), ties counting
    half, on the reference sample. The images with the concept are the share with the largest
    cosines. 0 for a word that is true of all images or of none.

    Source: Bykov et al., Labeling Neural Representations with Inverse Recognition, NeurIPS 2023
    (arXiv:2311.13594), section 3; there the concepts are annotated
    (:class:`AnnotatedInvert`), and combined to logical formulas, which are not sought here.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference",)

    share: Annotated[float, setting("Share of the sample that shows a concept.", gt=0, lt=1)] = 0.02

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        return _area(evidence, self._concepts(evidence))

    def _concepts(self, evidence: Evidence) -> Bool[np.ndarray, "s q"]:
        cosine = evidence.similarities
        return cosine >= np.quantile(cosine, 1 - self.share, axis=0)


class AnnotatedInvert(Labeller):
    """The same with annotations, as in the original.

    Words that are true of a share of the sample outside ``smallest`` to ``largest`` have a score
    of 0: the original's limits of a concept's frequency.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference", "annotations")

    smallest: Annotated[float, setting("Smallest share of images.", ge=0, le=1)] = 0.0
    largest: Annotated[float, setting("Largest share of images.", ge=0, le=1)] = 0.5

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        concepts = evidence.annotations
        assert concepts is not None  # noqa: S101 - checked by scores()
        share = concepts.mean(0)
        return _area(evidence, concepts & (share >= self.smallest) & (share <= self.largest))


def _area(evidence: Evidence, concepts: Bool[np.ndarray, "s q"]) -> Float32[np.ndarray, "n q"]:
    """Return the area under the curve by the sum of ranks (Mann and Whitney)."""
    readouts = evidence.sample[1]
    from scipy.stats import rankdata  # slow to import, and other methods do not need it

    inside = concepts.sum(0, dtype=np.float64)
    pairs = inside * (len(concepts) - inside)
    columns = concepts.astype(np.float32)
    scores = np.zeros(evidence.shape, np.float32)
    for block in evidence.blocks(len(concepts)):
        # less the mean rank, so that sums in 32 bits lose nothing
        rank = rankdata(readouts[:, block], axis=0) - (len(concepts) + 1) / 2
        excess = rank.astype(np.float32).T @ columns
        scores[block] = np.where(pairs > 0, 0.5 + excess / np.maximum(pairs, 1), 0)
    return scores
