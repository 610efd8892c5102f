"""Labels of units of known content, right or wrong, with full, reduced and small vocabularies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from benchmarks.cases.labellers import world
from benchmarks.worlds.labelled.units import Units, UnseenImages
from semlens.lenses.labelling.confidence import features
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.meaningless import meaningless

SMALL = (100, 200, 350, 500)
"""Sizes of small vocabularies."""
NOISE = 256
"""Components without a meaning that scores are compared with."""
NULL = 64
"""Others, whose confidence is measured."""
FAMILIES = {"full": 0.5, "removed": 0.25, "small": 0.25}
"""Kinds of vocabularies, and their weights: all words; without those that are right or nearly right
for the units that are labelled; a few words at random."""
PARTS = 4
"""Parts of the units, each of which is labelled without its words."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Best words of r units.

    Parameters
    ----------
    features
        float64[r f], of :mod:`semlens.lenses.labelling.confidence`.
    right
        bool[r], whether the best word is right or nearly right.
    possible
        bool[r], whether such a word is in the vocabulary.
    noise
        bool[r], whether no content activates the unit.
    family
        Kind of vocabulary of each, as a position among ``FAMILIES``.
    truth
        int[r], the first right word; a negative number of its own for each unit of noise.
    meaningless
        float64[c f], features of components without a meaning, of each vocabulary.
    """

    features: Float64[np.ndarray, "r f"]
    right: Bool[np.ndarray, " r"]
    possible: Bool[np.ndarray, " r"]
    noise: Bool[np.ndarray, " r"]
    family: Int64[np.ndarray, " r"]
    truth: Int64[np.ndarray, " r"]
    meaningless: Float64[np.ndarray, "c f"]
    world: str
    embedder: str
    gap: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.right)

    @property
    def weight(self) -> Float64[np.ndarray, " r"]:
        """Weights of the rows; their sum is the number of units."""
        counts = np.bincount(self.family, minlength=len(FAMILIES))
        share = np.array(list(FAMILIES.values())) * (counts > 0)
        return (counts[0] * share / np.maximum(counts, 1) / share.sum())[self.family]


def labelled(units: Units, labeller: Labeller, gap: str, seed: int = 0) -> Labelled:
    """Label units with each vocabulary, and judge the labels.

    Units of unknown content are left out, after their layer was scored.

    Parameters
    ----------
    gap
        Name of the modality gap of the units.
    """
    known = np.array([kind != "unknown" for kind in units.kind])
    noise = np.array([kind == "noise" for kind in units.kind])
    accepted = units.nearly_right
    truth = np.where(units.right.any(1), units.right.argmax(1), -1 - np.arange(len(units)))
    parts: list[tuple[np.ndarray, ...]] = []
    null: list[np.ndarray] = []
    for family, words, judged in vocabularies(accepted, truth, seed):
        evidence = with_words(units.evidence, words)
        scores = labeller.scores(evidence)
        usual = labeller.scores(meaningless(evidence, NOISE, seed))
        found = features(scores, evidence, usual)
        others = meaningless(evidence, NULL, seed + 1)
        null.append(features(labeller.scores(others), others, usual))
        hit = np.take_along_axis(accepted[:, words], scores.argmax(1)[:, None], 1)[:, 0]
        possible = np.asarray(accepted[:, words].any(1))
        kind = np.full(len(units), family)
        columns: Sequence[np.ndarray] = (found, hit, possible, noise, kind, truth)
        parts.append(tuple(values[known & judged] for values in columns))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Labelled(*columns, np.concatenate(null), units.world, units.embedder, gap)  # type: ignore[arg-type]


def vocabularies(
    accepted: Bool[np.ndarray, "n q"], truth: Int64[np.ndarray, " n"], seed: int
) -> Iterator[tuple[int, Int64[np.ndarray, " w"], Bool[np.ndarray, " n"]]]:
    """Yield families, words, and which units are labelled with them.

    Each unit with a right word is once labelled without its words, right and nearly right ones;
    the other units of its part lose theirs, too.
    """
    draw = np.random.default_rng(seed)
    n, size = accepted.shape
    every = np.ones(n, bool)
    yield 0, np.arange(size), every
    truths = draw.permutation(np.unique(truth[truth >= 0]))
    for part in np.array_split(truths, PARTS):
        judged = np.isin(truth, part)
        words = np.flatnonzero(~accepted[judged].any(0))
        if len(words) and judged.any():
            yield 1, words, judged
    for count in SMALL:
        if count < size:
            yield 2, np.sort(draw.permutation(size)[:count]), every


def with_words(evidence: Evidence, words: Int64[np.ndarray, " w"]) -> Evidence:
    """Return the evidence with some words only."""
    marks = evidence.annotations
    return replace(
        evidence, words=evidence.words[words],
        annotations=None if marks is None else marks[:, words],
    )  # fmt: skip


def planted(seed: int, embedder: str) -> Units:
    """Return units of a small synthetic world, of which some have no content."""
    evidence, truth = world(seed, 0.0, noise=0.9 if embedder == "a" else 1.2)
    sample, readouts = evidence.sample
    marks = evidence.annotations
    assert marks is not None  # noqa: S101 - it has them
    draw = np.random.default_rng(seed)
    noise = draw.permuted(readouts[:, :10], axis=0)
    readouts = np.concatenate([readouts, noise], axis=1)
    right = np.zeros((readouts.shape[1], len(evidence.words)), bool)
    right[np.arange(len(truth)), truth] = True
    return Units(
        f"planted {seed}", "broad", embedder, "", tuple(map(str, range(len(evidence.words)))),
        Evidence.of_reference(evidence.words, sample, readouts, 20, annotations=marks),
        ("detector",) * len(truth) + ("noise",) * 10, right,
        UnseenImages(sample, marks, readouts),
    )  # fmt: skip
