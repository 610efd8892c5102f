"""Measures of labels that do without the right one: what they say about unseen images.

Each takes the readouts of one unit on t images, and k concepts: which images a word is true of
(0 or 1), or how similar each image is to the word. Larger is a better description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy.stats import rankdata

from benchmarks.worlds.labelled.units import Units

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


FEWEST = 4
"""Fewest images of a word that is degraded."""


def degraded(
    extent: Bool[np.ndarray, " t"], draw: np.random.Generator
) -> tuple[Bool[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
    """Return an extent without half of its images, and with as many wrong ones as it has.

    At most as many as there are.
    """
    inside, outside = draw.permutation(np.flatnonzero(extent)), np.flatnonzero(~extent)
    missing, extra = extent.copy(), extent.copy()
    missing[inside[: len(inside) // 2]] = False
    extra[draw.permutation(outside)[: len(inside)]] = True
    return missing, extra


def as_similarity(
    similarity: Float[np.ndarray, " t"],
    extent: Bool[np.ndarray, " t"],
    worse: Bool[np.ndarray, " t"],
    draw: np.random.Generator,
) -> Float[np.ndarray, " t"]:
    """Return the similarity with a word as if it had the worse extent.

    Images that lose the word are as similar to it as a random image without it, and those that
    gain it as a random image with it.
    """
    changed = similarity.copy()
    for gains in (False, True):
        places = np.flatnonzero((worse != extent) & (worse == gains))
        changed[places] = draw.choice(similarity[extent == gains], len(places))
    return changed


def drops(
    measure: Measure,
    readouts: Float[np.ndarray, " t"],
    extent: Bool[np.ndarray, " t"],
    seed: int,
    similarity: Float[np.ndarray, " t"] | None = None,
) -> tuple[bool, bool] | None:
    """Return whether a unit's score drops under missing and under extra labels.

    Parameters
    ----------
    extent
        bool[t], which images show a right word.
    similarity
        float[t], similarity with the right word, for a measure of similarities.

    Returns
    -------
    tuple or None
        None if the word has too few images.
    """
    if extent.sum() < FEWEST or extent.all():
        return None
    draw = np.random.default_rng(seed)
    columns = [extent, *degraded(extent, draw)]
    if similarity is not None:
        columns = [as_similarity(similarity, extent, one, draw) for one in columns]
    right, missing, extra = measure(readouts, np.stack(columns, 1).astype(np.float64))
    return bool(missing < right), bool(extra < right)


MIXTURES = ("max", "sum")
"""Kinds of units of which no single word says everything."""
Columns = Callable[[Int64[np.ndarray, " k"]], np.ndarray]


class Scored:
    """Values of a measure for units and words, remembered.

    Parameters
    ----------
    readouts
        float[t n], of the units on unseen images.
    columns
        From k words to [t k], which unseen images they are true of, or how similar these are.
    words
        Number of words.
    similarities
        Whether columns are similarities.
    """

    def __init__(
        self,
        measure: Measure,
        readouts: np.ndarray,
        columns: Columns,
        words: int,
        *,
        similarities: bool = False,
    ) -> None:
        self.measure, self.columns, self.similarities = measure, columns, similarities
        self.readouts = np.ascontiguousarray(readouts.T.astype(np.float64))
        self._known = np.full((len(self.readouts), words), np.nan)

    def fill(self, words: Int64[np.ndarray, "n k"]) -> None:
        """Compute the values of k words for each unit, where they are not known."""
        for unit, asked in enumerate(words):
            missing = np.unique(asked[np.isnan(self._known[unit, asked])])
            if len(missing):
                values = self.measure(self.readouts[unit], self.columns(missing))
                self._known[unit, missing] = values

    def of(self, words: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return the value of one word for each unit."""
        self.fill(words[:, None])
        return self._known[np.arange(len(words)), words]


def of_extents(units: Units, rows: Int64[np.ndarray, " n"]) -> dict[str, Scored]:
    """Return the measures of annotations, which are the same for all embedders."""
    marks, readouts = units.unseen.annotations, units.unseen.readouts[:, rows]

    def columns(words: np.ndarray) -> np.ndarray:
        return marks[:, words].astype(np.float64)

    measures = {**OF_EXTENTS, "phi": Phi(marks)}
    return {name: Scored(one, readouts, columns, marks.shape[1]) for name, one in measures.items()}


def of_similarities(units: Units, seen_by: Units, rows: Int64[np.ndarray, " n"]) -> Scored:
    """Return the simulation score of words by the embedder of ``seen_by``."""
    similarity = (seen_by.unseen.vectors @ seen_by.evidence.words.T).astype(np.float64)
    readouts = units.unseen.readouts[:, rows]
    return Scored(
        pearson, readouts, lambda words: similarity[:, words], len(units.words), similarities=True
    )


def sanity(
    scored: Scored, units: Units, rows: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, "m 2"]:
    """Return for each unit with enough images whether missing and extra labels score less."""
    found = []
    for place, row in enumerate(rows):
        words = np.flatnonzero(units.right[row])
        extent = units.unseen.annotations[:, words].any(1)
        similarity = scored.columns(words).max(1) if scored.similarities else None
        dropped = drops(scored.measure, scored.readouts[place], extent, place, similarity)
        if dropped is not None:
            found.append(dropped)
    return np.array(found, float).reshape(-1, 2)


def prefers_right(
    scored: Scored,
    units: Units,
    rows: Int64[np.ndarray, " n"],
    wrong: Mapping[str, Int64[np.ndarray, " n"]],
) -> Float64[np.ndarray, " m"]:
    """Return for each method and unit whether the right word scores more than its best wrong one.

    1 for yes, 0 for no, 0.5 for equal scores. Mixtures are left out.
    """
    single = np.array([units.kind[row] not in MIXTURES for row in rows])
    right = scored.of(units.right[rows].argmax(1))
    found = [(np.sign(right - scored.of(words)) + 1) / 2 for words in wrong.values()]
    return np.concatenate([one[single] for one in found])
