"""Faithfulness of labels as in the paper (D.4): whether images of the label activate the unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from benchmarks.cases.labels.measures import Phi
from benchmarks.cases.labels.scores import cpu_timed
from benchmarks.worlds.labelled.units import Units
from semlens.errors import ConceptError
from semlens.lenses.labelling.labeller import Labeller

FEWEST = 5
"""Fewest unseen images of a word of the vocabulary; the paper generates 40 for each."""
TRAINED = ("logit", "channel", "unknown")
"""Kinds of units of trained networks, of which the paper's are."""
PAPER = {
    "random": 0.159,
    "invert-annotations": 0.514,
    "clip-dissect": 0.576,
    "semantic-lens": 0.542,
}
"""Means of the paper's networks with MobileCLIP-S2 and mean pooling."""


def faithfulness(
    units: Units, methods: Mapping[str, Labeller]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Return phi of each method's label of each unit, whatever its kind.

    Words without enough unseen images are left out of the vocabulary before units are labelled.
    """
    marks = units.unseen.annotations
    words = np.flatnonzero(marks.sum(0) >= FEWEST)
    if len(words) < 2:
        raise ConceptError(
            f"{len(words)} words of {units.world} have {FEWEST} unseen images.",
            "Expected two at least.",
            "Take more unseen images.",
        )
    marks, all_marks = marks[:, words], units.evidence.annotations
    evidence = replace(
        units.evidence,
        words=units.evidence.words[words],
        annotations=None if all_marks is None else all_marks[:, words],
    )
    phi, concepts = Phi(marks), marks.astype(np.float64)
    readouts = units.unseen.readouts.T.astype(np.float64)
    found = {}
    for name, method in methods.items():
        labels = cpu_timed(method, evidence)[0].argmax(1)
        pairs = zip(readouts, labels, strict=True)
        found[name] = np.array([phi(a, concepts[:, [word]])[0] for a, word in pairs])
    return found
