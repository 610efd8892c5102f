"""Cosine similarity cubed."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.settings import setting


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
