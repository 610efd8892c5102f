"""Labels at random: what a method must beat."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.settings import setting


class RandomLabels(Labeller):
    """Independent uniform scores in [0, 1), the baseline of the paper's table D.3.

    A component's scores depend on the seed and its position only.
    """

    needs: ClassVar[tuple[Need, ...]] = ()

    seed: Annotated[int, setting("Seed of the random numbers.", ge=0)] = 0

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        return np.random.default_rng(self.seed).random(evidence.shape, np.float32)
