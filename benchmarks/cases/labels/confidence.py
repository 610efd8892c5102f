"""Labels that are right or wrong, a logistic regression on them, and how well it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.worlds.labelled.units import Units
from semlens.lenses.labelling.confidence import Calibration, features
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


BINS = 10
RANGE = 0.01
"""Share of labels on either side, by features, whose values are moved to those of the others."""
PENALTY = 1.0
"""Of scikit-learn's logistic regression, for features of unit variance."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one calibration; the script's docstring explains the fields."""

    method: str
    embedder: str
    fitted_on: str
    labels: int
    right: float
    auroc: float
    brier: float
    brier_base: float
    ece: float
    families: dict[str, tuple[float, float]]
    above_half: dict[str, float]
    bins: dict[str, list[float]]
    """Mean confidence, share of right labels, and its 95 % interval."""


def fit(chosen: Sequence[Labelled]) -> dict[str, Any]:
    """Fit bias and weights, and the range of each feature."""
    found = np.concatenate([one.features for one in chosen])
    right = np.concatenate([one.right for one in chosen])
    weight: np.ndarray = np.concatenate([one.weight for one in chosen])
    low, high = np.quantile(found, (RANGE, 1 - RANGE), axis=0)
    found = found.clip(low, high)
    mean, spread = found.mean(0), np.maximum(found.std(0), 1e-9)
    model: Any = LogisticRegression(C=1 / PENALTY)
    model.fit((found - mean) / spread, right, sample_weight=weight / weight.mean())
    weights = model.coef_[0] / spread
    bias = model.intercept_[0] - mean @ weights
    rounded = {"weights": weights, "low": low, "high": high}
    return {
        "bias": round(float(bias), 6),
        **{name: tuple(np.round(values, 6).tolist()) for name, values in rounded.items()},
    }


def measured(
    method: str, embedder: str, fitted_on: str, parts: Sequence[tuple[Labelled, Calibration]]
) -> Measured:
    """Measure calibrations on labels."""
    p, null = (
        np.concatenate([of.probabilities(getattr(one, name)) for one, of in parts]).astype(float)
        for name in ("features", "meaningless")
    )
    right, weight, family, possible, noise = (
        np.concatenate([getattr(one, name) for one, _ in parts])
        for name in ("right", "weight", "family", "possible", "noise")
    )
    weight = weight / weight.sum()
    base = float(weight @ right)
    worlds = np.concatenate([np.full(len(one), hash(one.world)) for one, _ in parts])
    truth = np.concatenate([one.truth for one, _ in parts])
    group = np.unique(np.stack([worlds, truth]), axis=1, return_inverse=True)[1]
    reliability = bins(p, right, weight, group.reshape(-1))
    whole = family == 0
    groups = {
        "before": p[whole & possible],
        "right": p[whole & right],
        "after": p[family == 1],
        "noise": p[whole & noise],
        "meaningless": null,
    }
    return Measured(
        method, embedder, fitted_on, len(p), base,
        auroc=float(roc_auc_score(right, p, sample_weight=weight)),
        brier=float(weight @ (p - right) ** 2),
        brier_base=base * (1 - base),
        ece=float(reliability["weight"] @ np.abs(reliability["mean"] - reliability["share"])),
        families={
            name: (float(np.mean(p[family == i])), float(np.mean(right[family == i])))
            for i, name in enumerate(FAMILIES)
            if (family == i).any()
        },
        above_half={n: float(np.mean(some > 0.5)) for n, some in groups.items() if len(some)},
        bins={name: reliability[name].tolist() for name in ("mean", "share", "low", "high")},
    )  # fmt: skip


def bins(
    p: Float64[np.ndarray, " r"],
    right: Bool[np.ndarray, " r"],
    weight: Float64[np.ndarray, " r"],
    group: Int64[np.ndarray, " r"],
) -> dict[str, Float64[np.ndarray, " b"]]:
    """Return mean confidence and share of right labels in bins of equal weight.

    The interval of the share is that of a bootstrap over groups, such as truths.
    """
    order = np.argsort(p, kind="stable")
    before = np.cumsum(weight[order]) - weight[order] / 2
    bin_of = np.empty(len(p), int)
    bin_of[order] = np.minimum((before / weight.sum() * BINS).astype(int), BINS - 1)
    shape = group.max() + 1, BINS
    total, hits = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (group, bin_of), weight)
    np.add.at(hits, (group, bin_of), weight * right)
    kept = total.sum(0) > 0
    mean = np.bincount(bin_of, weight * p, BINS)[kept] / total.sum(0)[kept]
    draws = np.random.default_rng(0).multinomial(shape[0], np.full(shape[0], 1 / shape[0]), 500)
    drawn = (draws @ hits / np.maximum(draws @ total, np.finfo(float).tiny))[:, kept]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return {
        "weight": total.sum(0)[kept] / total.sum(), "mean": mean,
        "share": hits.sum(0)[kept] / total.sum(0)[kept], "low": low, "high": high,
    }  # fmt: skip
