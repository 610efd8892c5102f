"""Measures of labels that do without the right one: what they say about unseen images.

Each takes the readouts of one unit on t images, and k concepts: which images a word is true of
(0 or 1), or how similar each image is to the word. Larger is a better description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.stats import rankdata

Readouts = Float[np.ndarray, " t"]
Concepts = Float[np.ndarray, "t k"]
Values = Float64[np.ndarray, " k"]
SHARE = 0.05
"""Share of the images that count as activating a unit, where a measure needs yes or no."""


def pearson(readouts: Readouts, concepts: Concepts) -> Values:
    """Correlation: the simulation score, if concepts are similarities. 0 for a constant."""
    a, c = readouts - readouts.mean(), concepts - concepts.mean(0)
    return _ratio(a @ c, np.linalg.norm(a) * np.linalg.norm(c, axis=0))


def cosine(readouts: Readouts, concepts: Concepts) -> Values:
    """Cosine of readouts and concept, neither of them centred."""
    norms = np.linalg.norm(readouts) * np.linalg.norm(concepts, axis=0)
    return _ratio(readouts @ concepts, norms)


def auprc(readouts: Readouts, concepts: Concepts) -> Values:
    """Average precision of the readouts as a detector of the concept."""
    order = np.argsort(-readouts, kind="stable")
    last = np.flatnonzero(np.append(np.diff(readouts[order]) != 0, True))  # of equal readouts
    found = np.cumsum(concepts[order], axis=0)[last]
    precision = found / (last + 1)[:, None]
    return _ratio((precision * np.diff(found, axis=0, prepend=0)).sum(0), found[-1])


def auc(readouts: Readouts, concepts: Concepts) -> Values:
    """P(readout with the concept > readout without), ties counting half; .5 if undefined.

    One of the two measures of CoSy (Kopf et al. 2024, arXiv:2405.20331).
    """
    count = concepts.sum(0)
    pairs = count * (len(readouts) - count)
    area = rankdata(readouts) @ concepts - count * (count + 1) / 2
    return np.where(pairs > 0, area / np.maximum(pairs, 1), 0.5)


def mad(readouts: Readouts, concepts: Concepts) -> Values:
    """Mean readout with the concept less that without, over the deviation without.

    The other measure of CoSy.
    """
    count = concepts.sum(0)
    rest = len(readouts) - count
    with_it, without = readouts @ concepts, readouts @ (1 - concepts)
    mean = without / np.maximum(rest, 1)
    square = readouts**2 @ (1 - concepts) / np.maximum(rest, 1)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    difference = with_it / np.maximum(count, 1) - mean
    return np.where((count > 0) & (rest > 0), _ratio(difference, spread), 0)


def f1(readouts: Readouts, concepts: Concepts) -> Values:
    """F1 of the strongest images and those with the concept."""
    active = strongest(readouts)
    return _ratio(2.0 * (active @ concepts), active.sum() + concepts.sum(0))


def iou(readouts: Readouts, concepts: Concepts) -> Values:
    """Intersection over union of the strongest images and those with the concept."""
    active = strongest(readouts)
    both = active @ concepts
    return _ratio(both, active.sum() + concepts.sum(0) - both)


def strongest(readouts: Readouts, share: float = SHARE) -> Bool[np.ndarray, " t"]:
    """Return which images are among the strongest share, or as strong; never those at the minimum.

    Of a unit that fewer images activate, these.
    """
    return (readouts >= np.quantile(readouts, 1 - share)) & (readouts > readouts.min())


class Phi:
    """Mean readout on images of a concept, as a share of the range over all concepts.

    phi = (a(k) - min a) / (max a - min a), where a(k) is the mean readout on images of concept k
    (Dreyer et al. 2025, arXiv:2501.05398, D.4.1). 0 for a concept without images, and for a unit
    that responds to all concepts alike.

    Parameters
    ----------
    vocabulary
        [t q], which images show which of all concepts, of which at least one has images.
    """

    def __init__(self, vocabulary: Bool[np.ndarray, "t q"]) -> None:
        self._all = vocabulary[:, vocabulary.any(0)].astype(np.float64)

    def __call__(self, readouts: Readouts, concepts: Concepts) -> Values:
        """Return phi of each concept."""
        means = (readouts @ self._all) / self._all.sum(0)
        count = concepts.sum(0)
        mean = readouts @ concepts / np.maximum(count, 1)
        low, high = means.min(), means.max()
        return np.where(count > 0, _ratio(mean - low, np.array(high - low)), 0)


Measure = Callable[[Readouts, Concepts], Values]
OF_EXTENTS: Mapping[str, Measure] = MappingProxyType(
    {
        "pearson": pearson, "cosine": cosine, "auprc": auprc, "auc": auc, "mad": mad, "f1": f1,
        "iou": iou,
    }
)  # fmt: skip
"""Measures of which images show a word. :class:`Phi` needs the vocabulary besides."""


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> Values:
    small = denominator <= 1e-12
    return np.where(small, 0, numerator / np.where(small, 1, denominator)).astype(np.float64)
