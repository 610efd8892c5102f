"""SoftWPMI and WPMI: pointwise mutual information of a word and the set of examples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from scipy.special import logsumexp, softmax

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.settings import setting

_MINIMUM = np.float32(1e-7)
"""Added to probabilities before their logarithm, as in the original."""
_WORDS = 64
"""Words whose prior is computed in one step."""


class MutualInformation(Labeller):
    """Base of the two: log-likelihood of the examples given a word, less the word's prior.

    With p_iw = softmax over words of (temperature * cosine of image i and word w), the score is

        L_w - prior_weight * log mean over components of exp(L_w),

    where L_w is the sum over a component's examples of a function of p_iw. The prior is a mean
    over the components that are scored together: **labels depend on which components are
    present**. It is also dominated by the component that fits the word best.

    Source: Oikarinen and Weng, CLIP-Dissect, ICLR 2023 (arXiv:2204.10965), section 3.2 and
    appendix; ``similarity.py`` of the authors. The paper takes the prior over the images of the
    probing data; the code takes it over the components, and so does this.
    """

    needs: ClassVar[tuple[Need, ...]] = ("examples",)
    relative: ClassVar[bool] = True

    top: Annotated[int, setting("Number of examples.", ge=1)]
    temperature: Annotated[float, setting("Factor of the cosines in the softmax.", gt=0)]
    prior_weight: Annotated[float, setting("Weight of the prior, lambda.", ge=0)]

    @abstractmethod
    def _log(self, probability: Float32[np.ndarray, "b t q"]) -> Float32[np.ndarray, "b t q"]:
        """Return the terms of L_w."""

    def likelihoods(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        """Return L_w of each component and word."""
        words = evidence.words.T.copy()
        likelihood = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(evidence.depth(self.top) * words.shape[1]):
            cosine = evidence.vectors(block, self.top) @ words
            terms = self._log(softmax(np.float32(self.temperature) * cosine, axis=2))
            terms[~evidence.used(block, self.top)] = 0
            likelihood[block] = terms.sum(1)
        return likelihood

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        scores = self.likelihoods(evidence)
        for start in range(0, scores.shape[1], _WORDS):
            some = scores[:, start : start + _WORDS]
            some -= self.prior_weight * (logsumexp(some, axis=0) - np.log(max(len(some), 1)))
        return scores


class SoftWPMI(MutualInformation):
    """SoftWPMI, the method of CLIP-Dissect: an example belongs to the set with a probability.

    L_w = sum over ranks i = 0, 1, ... of log(1 + b_i (p_iw - 1) + 1e-7), with the probability of
    belonging b_i = first - (first - last) * i / top.

    The defaults are those of the original, made for 100 examples of CLIP. Their temperature fits
    few embedders: see :func:`semlens.lenses.labelling.fit_temperature.fit_temperature`.
    """

    top: Annotated[int, setting("Number of examples.", ge=1)] = 100
    temperature: Annotated[float, setting("Factor of the cosines in the softmax.", gt=0)] = 10.0
    prior_weight: Annotated[float, setting("Weight of the prior, lambda.", ge=0)] = 1.0
    first: Annotated[
        float, setting("Probability that the strongest example belongs.", gt=0, lt=1)
    ] = 0.998
    last: Annotated[
        float, setting("Probability that an example of rank 'top' belongs.", gt=0, lt=1)
    ] = 0.97

    def _log(self, probability: Float32[np.ndarray, "b t q"]) -> Float32[np.ndarray, "b t q"]:
        rank = np.arange(probability.shape[1], dtype=np.float32)
        belongs = self.first - (self.first - self.last) * rank / self.top
        return np.log1p(belongs[:, None] * (probability - 1) + _MINIMUM)


class WPMI(MutualInformation):
    """WPMI: the same with examples that all belong to the set.

    L_w = sum over examples of log(p_iw + 1e-7). Defaults of the original.
    """

    top: Annotated[int, setting("Number of examples.", ge=1)] = 28
    temperature: Annotated[float, setting("Factor of the cosines in the softmax.", gt=0)] = 2.0
    prior_weight: Annotated[float, setting("Weight of the prior, lambda.", ge=0)] = 0.6

    def _log(self, probability: Float32[np.ndarray, "b t q"]) -> Float32[np.ndarray, "b t q"]:
        return np.log(probability + _MINIMUM)
