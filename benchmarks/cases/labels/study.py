"""Variants of methods, to choose a default and its parameters on development worlds only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from scipy.stats import rankdata

from semlens.lenses.labelling.clip_dissect import SoftWPMI, fit_temperature
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.lenses.labelling.registry import BUILT_IN, make_labeller
from semlens.settings import setting


class FittedWPMI(Labeller):
    """SoftWPMI with 30 examples and the temperature that suits the embedder."""

    needs: ClassVar[tuple[Need, ...]] = ("examples",)
    relative: ClassVar[bool] = True

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        return fit_temperature(SoftWPMI(top=30), evidence).scores(evidence)


class MeanOf(Labeller):
    """Mean of two methods' scores, standardised over the words of each component."""

    needs: ClassVar[tuple[Need, ...]] = ("examples", "background", "reference")

    first: Annotated[str, setting("A method.")] = "vote"
    second: Annotated[str, setting("Another.")] = "semantic-lens-centred"
    ranks: Annotated[bool, setting("Whether ranks are averaged instead of scores.")] = False

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        found = [make_labeller(name).scores(evidence) for name in (self.first, self.second)]
        return np.mean([self._comparable(one) for one in found], axis=0).astype(np.float32)

    def _comparable(self, scores: np.ndarray) -> np.ndarray:
        if self.ranks:
            return -np.log(rankdata(-scores, axis=1))  # differences at the top count most
        spread = scores.std(1, keepdims=True)
        return (scores - scores.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)


STUDY: Mapping[str, Labeller] = {
    **{name: BUILT_IN[name] for name in (
        "semantic-lens", "semantic-lens-centred", "soft-wpmi", "clip-dissect-weighted", "csp",
        "cos-cubed", "vote", "vote-examples",
    )},
    **{f"vote kappa={k}": make_labeller("vote", kappa=k) for k in (0.0, 0.25, 0.75, 1.0)},
    **{f"vote-examples kappa={k}": make_labeller("vote-examples", kappa=k)
       for k in (0.0, 0.25, 0.75, 1.0)},
    **{f"vote tau={t}": make_labeller("vote", tau=t) for t in (0.75, 1.0, 2.0, 3.0)},
    **{f"vote share={s}": make_labeller("vote", share=s) for s in (0.02, 0.04, 0.16)},
    **{f"vote top={t}": make_labeller("vote", top=t) for t in (0, 30)},
    **{f"vote-examples top={t}": make_labeller("vote-examples", top=t) for t in (20, 30)},
    "soft-wpmi fitted": FittedWPMI(),
    **{f"vote + {other}": MeanOf(second=other)
       for other in ("semantic-lens-centred", "soft-wpmi", "cos-cubed", "clip-dissect-weighted")},
    "vote + semantic-lens-centred, ranks": MeanOf(ranks=True),
}  # fmt: skip
"""By name; the default is among them."""
