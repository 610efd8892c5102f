"""SemanticLens: alignment of a word with the aggregated examples."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float32

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.lenses.query_embedding import unit
from semlens.settings import setting
from semlens.streaming.aggregate import aggregate_vectors
from semlens.types import Aggregate

Centred = Literal["none", "images", "words", "both"]


class SemanticLens(Labeller):
    """Cosine of the aggregated examples with a word, less that with the empty prompt.

    With examples v_i (unit vectors), concept vector theta = mean_i v_i, text t and empty prompt
    t0, the score is cos(theta, t) - cos(theta, t0) (Dreyer et al. 2025, arXiv:2501.05398, Eqs. 2
    to 4). Which word is best does not depend on t0.

    Centring is an addition. ``images`` subtracts the mean of the background from theta. In
    embedders with a modality gap all images are near to each other and far from all texts, so
    that a few words are the nearest to almost any theta; this removes it. ``words`` subtracts the
    mean of the words from each t, which then has unit length again, and no empty prompt. The mean
    alone would not change which word is best; the new length favours words that are near to the
    mean. With one word, nothing is left of it, and its score is 0.
    """

    needs: ClassVar[tuple[Need, ...]] = ("examples",)

    aggregate: Annotated[
        Aggregate, setting("How the examples are aggregated; 'weighted' is by readout.")
    ] = "mean"
    centred: Annotated[Centred, setting("What the mean is subtracted from.")] = "none"
    top: Annotated[int | None, setting("Number of examples; None for all.", ge=1)] = None

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        columns = self._directions(evidence).T.copy()
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(evidence.depth(self.top) * columns.shape[0]):
            used = torch.from_numpy(evidence.used(block, self.top))
            theta = aggregate_vectors(
                torch.from_numpy(evidence.vectors(block, self.top)),
                used,
                torch.from_numpy(evidence.readouts[block, : used.shape[1]]),
                self.aggregate,
            ).numpy()
            if self.centred in ("images", "both"):
                theta = theta - evidence.centre
            scores[block] = unit(theta) @ columns
        return scores

    def _directions(self, evidence: Evidence) -> Float32[np.ndarray, "q d"]:
        if self.centred in ("words", "both"):
            return centred_words(evidence)
        return evidence.words if evidence.null is None else evidence.words - evidence.null


def centred_words(evidence: Evidence) -> Float32[np.ndarray, "q d"]:
    """Return the words less their mean, of unit length; zeros for a word that is the mean."""
    rest = evidence.words - evidence.words.mean(0)
    rest[np.linalg.norm(rest, axis=1) < 1e-5] = 0  # only rounding is left
    return unit(rest)


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
