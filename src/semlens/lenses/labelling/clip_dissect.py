"""SoftWPMI and WPMI: pointwise mutual information of a word and the set of examples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from scipy.special import logsumexp, softmax

from semlens.errors import ConceptError
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
    few embedders: see :func:`semlens.lenses.labelling.clip_dissect.fit_temperature`.
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


class CosCubed(Labeller):
    """Cosine of readouts and similarities, both centred and cubed.

    With readouts a and cosines p_w of the reference sample, the score is
    cos((a - mean a)^3, (p_w - mean p_w)^3): a correlation in which extreme images count most.

    Source: Oikarinen and Weng, CLIP-Dissect (arXiv:2204.10965), appendix A; ``similarity.py`` of
    the authors, which takes no norm below 0.001. Norms of cubed cosines are about that size
    and grow with the number of images, so that on a small sample this floor would favour words
    whose cosines vary much. It is therefore 0 here; set ``floor=1e-3`` for the original.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference",)

    floor: Annotated[float, setting("Smallest norm that is divided by.", ge=0)] = 0.0

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        cubed = self._cubed(evidence.similarities)
        readouts = evidence.sample[1]
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(len(cubed)):
            scores[block] = self._cubed(readouts[:, block]).T @ cubed
        return scores

    def _cubed(self, values: np.ndarray) -> Float32[np.ndarray, "s k"]:
        # as a share of the largest deviation, so that neither cubes nor squares under- or overflow
        rest = values - values.mean(0, dtype=np.float64)
        scale = np.abs(rest).max(0)
        rest[:, scale <= 1e-6 * np.abs(values).max(0)] = 0  # constant up to rounding
        scale = np.maximum(scale, np.finfo(np.float64).tiny)
        cubes = (rest / scale) ** 3
        norm = np.linalg.norm(cubes, axis=0)
        floor = np.divide(self.floor, scale**3, out=np.zeros_like(norm), where=norm > 0)
        return (cubes / np.maximum(np.maximum(norm, floor), 1e-30)).astype(np.float32)


_SMALLEST = 1e-3
"""Smallest mean cosine that is divided by; the original has no bound and fails below 0."""


class RankReorder(Labeller):
    """Error of the readouts when the strongest images are ordered by a word instead.

    Of the strongest share of the reference sample, with readouts a sorted to a_(1) <= ... <= a_(n),
    the image of rank r by its cosine with the word is given a_(r). The score is

        - mean |a_i - a_(r_i)|^power / c / (mean cosine)^scale,

    where c is the same mean for a random order. It sees only the order among images that all
    activate the component.

    Source: Oikarinen and Weng, CLIP-Dissect (arXiv:2204.10965), appendix A; ``similarity.py`` of
    the authors. Their c is the mean of five random orders; this is its expectation, the
    mean over all pairs, so that nothing is random. It scales all words of a component alike. A
    mean cosine below 0.001 counts as 0.001.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference",)

    share: Annotated[float, setting("Share of the sample.", gt=0, le=1)] = 0.05
    power: Annotated[float, setting("Exponent of the errors.", gt=0)] = 3.0
    scale: Annotated[float, setting("Exponent of the mean cosine.", ge=0)] = 0.5

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        cosine, readouts = evidence.similarities, evidence.sample[1]
        count = max(1, int(len(cosine) * self.share))
        scores = np.zeros(evidence.shape, np.float32)
        for component in range(len(evidence)):
            rows = np.argsort(-readouts[:, component], kind="stable")[:count]
            target = readouts[rows, component]
            chance = (np.abs(target[:, None] - target) ** self.power).mean()
            if chance > 0:
                order = np.argsort(cosine[rows], axis=0, kind="stable")
                error = np.abs(target[order] - target[::-1, None]) ** self.power
                mean = np.maximum(cosine[rows].mean(0), _SMALLEST)
                scores[component] = -error.mean(0) / chance / mean**self.scale
        return scores


TEMPERATURES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Temperatures that are compared by default."""


def fit_temperature(
    method: MutualInformation,
    evidence: Evidence,
    temperatures: Sequence[float] = TEMPERATURES,
) -> MutualInformation:
    """Return the method with the temperature that is best by :func:`separation`.

    A temperature that is too high looks at the nearest word of each image only, one that is too
    low at averages, in which words differ little. What is best depends on how far apart the
    embedder keeps images and words. Ties go to the earlier temperature.

    Parameters
    ----------
    evidence
        At least two components with at least two examples each; the more, the better.

    Raises
    ------
    ConceptError
        If there are fewer, or no temperature.
    """
    if not temperatures:
        raise ConceptError(
            "There is no temperature to choose from.", "Expected at least one.", "Pass some."
        )
    settings = method.model_dump()
    found = [type(method).model_validate({**settings, "temperature": t}) for t in temperatures]
    measured = [separation(one, evidence) for one in found]
    return found[int(np.argmax(measured))]


def separation(method: MutualInformation, evidence: Evidence) -> float:
    """Return how well words chosen on half of the examples single components out on the other.

    The examples of each component are divided by odd and even rank. On one half each component
    gets its best word. By that word's score on the other half, the component is compared with all
    others: the result is the share of others that score less, ties counting half, averaged over
    components and over both directions. It is 1 if labels fit no other component, and 0.5 if
    they say nothing. No truth is needed, and a word that is best for all components gains nothing.

    Raises
    ------
    ConceptError
        If there are fewer than two components with two examples.
    """
    enough = evidence.counts >= 2
    if enough.sum() < 2:
        raise ConceptError(
            f"{enough.sum()} components have two examples or more.",
            "Expected at least two, to compare halves of their examples.",
            "Set the temperature by hand.",
        )
    halves = [method.scores(_half(evidence, enough, start)) for start in (0, 1)]
    return float(np.mean([_share_below(a, b) for a, b in (halves, halves[::-1])]))


def _share_below(chosen: Float32[np.ndarray, "n q"], tested: Float32[np.ndarray, "n q"]) -> float:
    from scipy.stats import rankdata  # slow to import, and labelling does not need it

    words = chosen.argmax(1)
    rank = np.diagonal(rankdata(tested[:, words], axis=0))
    return float((rank.mean() - 1) / (len(words) - 1))


def _half(evidence: Evidence, rows: np.ndarray, start: int) -> Evidence:
    """Return every second example of some components."""
    return replace(
        evidence,
        examples=evidence.examples[rows, start::2],
        readouts=evidence.readouts[rows, start::2],
        counts=(evidence.counts[rows] + 1 - start) // 2,
        reference=None,
        reference_readouts=None,
        in_reference=None,
        population=None,
        annotations=None,
    )
