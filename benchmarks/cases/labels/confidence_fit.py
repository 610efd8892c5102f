"""A logistic regression on labels that are right or wrong, and how well its probabilities hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.cases.labels.confidence_cases import FAMILIES, Labelled
from semlens.lenses.labelling.confidence import Calibration

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
