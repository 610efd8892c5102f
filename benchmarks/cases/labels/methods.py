"""Methods beside the built-in ones: given annotations, the truth's own images, and variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32, Int64
from scipy.stats import rankdata

from benchmarks.cases.labels.measures import strongest
from benchmarks.worlds.labelled.units import Units
from semlens.lenses.labelling.clip_dissect import SoftWPMI, fit_temperature
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.lenses.labelling.linear_explanation import standardised
from semlens.lenses.labelling.registry import BUILT_IN, make_labeller
from semlens.settings import setting

TOP = 60
"""Examples of a unit that is active on exactly the images of its right words."""


class AnnotatedOverlap(Labeller):
    """Intersection over union of the strongest images and those that a word is true of.

    The word with the best F1 is the same one.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference", "annotations")

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        readouts, extents = evidence.sample[1], _extents(evidence)
        active = np.stack([strongest(column) for column in readouts.T]).astype(np.float32)
        both = active @ extents
        return both / np.maximum(active.sum(1)[:, None] + extents.sum(0) - both, 1)


class AnnotatedCorrelation(Labeller):
    """Correlation of the readouts with the annotation of a word."""

    needs: ClassVar[tuple[Need, ...]] = ("reference", "annotations")

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        readouts, extents = evidence.sample[1], _extents(evidence)
        return (standardised(readouts).T @ standardised(extents) / len(extents)).astype(np.float32)


REFERENCES: Mapping[str, Labeller] = MappingProxyType(
    {
        "invert-annotations": BUILT_IN["invert-annotations"],
        "overlap-annotations": AnnotatedOverlap(),
        "correlation-annotations": AnnotatedCorrelation(),
    }
)
"""Methods that are given annotations."""


def ceiling(
    units: Units, rows: Int64[np.ndarray, " n"]
) -> tuple[Evidence, Int64[np.ndarray, " n"]]:
    """Return evidence about units that are active on exactly the images of their right words.

    What a method misses of these, it misses because of the embedder. How strongly an image
    activates a unit is random, from 1 to 2, since methods are not made for readouts that are all
    equal. The images are those of the reference sample and the unseen ones; the others are not
    annotated.

    Returns
    -------
    Evidence
        One component for each distinct set of right words.
    rows
        The component of each unit.
    """
    right, place = np.unique(units.right[rows], axis=0, return_inverse=True)
    evidence, unseen = units.evidence, units.unseen
    vectors = np.concatenate([evidence.sample[0], unseen.vectors])
    images = np.concatenate([_extents(evidence), unseen.annotations.astype(np.float32)])
    shown = (images @ right.T > 0).astype(np.float32)
    shown *= np.random.default_rng(0).uniform(1, 2, shown.shape).astype(np.float32)
    found = Evidence.of_reference(evidence.words, vectors, shown, TOP, null=evidence.null)
    counts = np.clip((shown > 0).sum(0), 1, found.examples.shape[1]).astype(np.int64)
    return replace(found, counts=counts), place.reshape(-1)


def _extents(evidence: Evidence) -> Float32[np.ndarray, "s q"]:
    if evidence.annotations is None:
        raise ValueError("The units have no annotations. Expected some of the reference sample.")
    return evidence.annotations.astype(np.float32)


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
