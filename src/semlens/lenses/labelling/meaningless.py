"""Components without a meaning: what scores of real ones must exceed to be above noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semlens.lenses.labelling.evidence import Evidence


def meaningless(evidence: Evidence, count: int, seed: int = 0) -> Evidence:
    """Return evidence about components whose readouts have nothing to do with the images.

    Each has the readouts of a component drawn at random. Its examples are as many images of the
    background, drawn with replacement, and its readouts on the reference sample are in random
    order; which of them belong to examples stays as it is. The largest score of any word for such
    components, by a method that scores each component alone, is what a component must exceed for
    its label to be above noise. That says that the examples have something in common which is
    nearer to the word than random images are, not that the word is right
    (:mod:`semlens.lenses.noise`).

    Parameters
    ----------
    count
        Number of components.
    """
    draw = np.random.default_rng(seed)
    images = evidence.images_to_compare
    rows = draw.integers(0, len(evidence), count)
    examples = draw.integers(0, len(images), (count, evidence.examples.shape[1]))
    readouts, places = evidence.reference_readouts, evidence.in_reference
    if readouts is not None:
        order = draw.permuted(np.tile(np.arange(len(readouts))[:, None], count), axis=0)
        readouts = np.take_along_axis(readouts[:, rows], order, 0)
        if places is not None:
            moved = np.argsort(order, axis=0).T  # where each row of the sample is now
            places = np.where(
                places[rows] >= 0, np.take_along_axis(moved, places[rows].clip(0), 1), -1
            )
    return replace(
        evidence,
        images=images,
        examples=examples,
        readouts=evidence.readouts[rows],
        counts=evidence.counts[rows],
        background=images,
        reference_readouts=readouts,
        in_reference=places,
    )
