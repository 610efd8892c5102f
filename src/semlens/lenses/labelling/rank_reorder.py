"""Rank reorder: how well a word orders the strongest images."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.settings import setting

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
