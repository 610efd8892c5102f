"""Components without a meaning: what scores of real ones must exceed to be above noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semlens.analysis.labelling.evidence import Evidence


def meaningless(evidence: Evidence, count: int, seed: int = 0) -> Evidence:
    """Return evidence about components whose readouts have nothing to do with the images.

    Each has the readouts of a component drawn at random. Its examples are as many images of the
    background, drawn with replacement, and its readouts on the reference sample are in random
    order. The largest score of any word for such components, by a method that scores each
    component alone, is what a component must exceed for its label to be above noise. That says
    that the examples have something in common which is nearer to the word than random images are,
    not that the word is right (:mod:`semlens.analysis.noise`).

    Parameters
    ----------
    count
        Number of components.
    """
    draw = np.random.default_rng(seed)
    images = evidence.images_to_compare
    rows = draw.integers(0, len(evidence), count)
    examples = draw.integers(0, len(images), (count, evidence.examples.shape[1]))
    readouts = evidence.reference_readouts
    return replace(
        evidence,
        images=images,
        examples=examples,
        readouts=evidence.readouts[rows],
        counts=evidence.counts[rows],
        background=images,
        reference_readouts=None if readouts is None else draw.permuted(readouts[:, rows], axis=0),
    )
