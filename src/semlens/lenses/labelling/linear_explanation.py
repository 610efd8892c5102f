"""Linear explanations: a sparse combination of words that predicts the readouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import expit

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.settings import setting


class Correlation(Labeller):
    """Pearson's correlation of a component's readouts and a word's cosines, on the reference.

    It is the simulation score of Oikarinen and Weng, Linear Explanations (arXiv:2405.06855), as a
    labelling method: the whole distribution counts, also the images that do not activate a
    component. 0 where either is constant.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference",)

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        columns = standardised(evidence.similarities).astype(np.float32) / len(
            evidence.similarities
        )
        readouts = evidence.sample[1]
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(len(readouts)):
            scores[block] = standardised(readouts[:, block]).astype(np.float32).T @ columns
        return scores


def standardised(values: Float32[np.ndarray, "s k"]) -> Float64[np.ndarray, "s k"]:
    """Return columns with mean 0 and standard deviation 1; zeros for a constant column."""
    rest = values - values.mean(0, dtype=np.float64)
    spread = rest.std(0)
    constant = spread <= 1e-6 * np.abs(values).max(0)  # up to rounding
    return np.where(constant, 0, rest / np.where(constant, 1, spread))


_ITERATIONS = 200
"""Passes of the elastic net over the words; only the order of its weights is used."""


class LinearExplanation(Labeller):
    """Weights of the few words whose concept scores predict the readouts best.

    An elastic net on all words orders them by weight. Then words are added one at a time: of the
    first ``width`` candidates, the one with which a least-squares fit correlates most with held
    out readouts, as long as the correlation grows by ``tolerance``. A candidate that falls short
    of it once is not tried again.

    Words that are chosen score 1 plus their weight in the last fit, at least 0.5; others score
    below: the elastic net's weight, as a share of the largest, less 1.

    Source: Oikarinen and Weng, Linear Explanations for Individual Neurons, ICML 2024
    (arXiv:2405.06855), section 3, and their code. There, concept scores are probabilities,
    sigmoid(slope (cosine + offset)), fitted to ImageNet's labels for three embedders, and words
    whose five largest probabilities have a mean below 0.5 are left out. For other embedders there
    are no such values, so by default the cosines themselves are used, and no word is left out.
    The final fits are exact where the original takes 100 gradient steps, and their weights are
    those of standardised concept scores, so that they can be compared.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference",)

    penalty: Annotated[float, setting("Strength of the elastic net, lambda.", gt=0)] = 0.05
    sparse: Annotated[float, setting("Share of its absolute penalty, alpha.", gt=0, le=1)] = 0.99
    longest: Annotated[int, setting("Largest number of words.", ge=1)] = 10
    width: Annotated[int, setting("Candidates per step.", ge=1)] = 10
    tolerance: Annotated[float, setting("Smallest growth of the correlation.", ge=0)] = 0.02
    slope: Annotated[
        float | None, setting("Slope of the concept probability; None for cosines.", gt=0)
    ] = None
    offset: Annotated[float, setting("Added to the cosine before the slope.")] = 0.0
    held_out: Annotated[float, setting("Share of the sample that is held out.", gt=0, lt=1)] = 0.15
    seed: Annotated[int, setting("Seed of the division.", ge=0)] = 0

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        concepts = evidence.similarities
        if self.slope is not None:
            concepts = expit(np.float32(self.slope) * (concepts + np.float32(self.offset)))
        fit = _Division.of(standardised(concepts), self.held_out, self.seed)
        scores = np.empty(evidence.shape, np.float32)
        readouts = evidence.sample[1]
        for component in range(len(evidence)):
            target = standardised(readouts[:, component : component + 1])[:, 0]
            scores[component] = self._explain(fit, target)
        return scores

    def _explain(
        self, fit: _Division, target: Float64[np.ndarray, " s"]
    ) -> Float64[np.ndarray, " q"]:
        from sklearn.linear_model import ElasticNet  # slow to import, for one of many methods

        gram: Any = fit.gram  # scikit-learn's annotations lack arrays
        net = ElasticNet(
            alpha=self.penalty, l1_ratio=self.sparse, precompute=gram, fit_intercept=False,
            max_iter=_ITERATIONS, tol=1e-3,
        )  # fmt: skip
        net.fit(fit.train, target[fit.train_rows], check_input=False)
        coefficients = net.coef_
        order = np.argsort(-coefficients, kind="stable")
        chosen, weights = self._greedy(fit, target, order)
        scores = coefficients / max(np.abs(coefficients).max(), 1e-9) - 1
        scores[chosen] = 1 + np.maximum(weights, -0.5)
        return scores

    def _greedy(
        self, fit: _Division, target: Float64[np.ndarray, " s"], order: Int64[np.ndarray, " q"]
    ) -> tuple[list[int], Float64[np.ndarray, " c"]]:
        chosen: list[int] = []
        weights, best = np.zeros(0), 0.0
        tested = target[fit.test_rows]
        covariance = fit.train.T @ target[fit.train_rows]
        candidates = order.tolist()
        while len(chosen) < self.longest:
            step: tuple[float, int, np.ndarray] | None = None
            for word in candidates[: self.width]:
                fitted = fit.solve([*chosen, word], covariance)
                growth = fit.correlation([*chosen, word], fitted, tested) - best
                if chosen and growth < self.tolerance:
                    candidates.remove(word)
                elif growth > (step[0] if step else 0):
                    step = growth, word, fitted
            if step is None:
                break
            growth, word, weights = step
            best += growth
            chosen.append(word)
            candidates.remove(word)
        return chosen, weights


@dataclass(frozen=True, eq=False)
class _Division:
    """Concept scores of the sample, divided for fitting and testing."""

    train_rows: Int64[np.ndarray, " a"]
    test_rows: Int64[np.ndarray, " b"]
    train: Float64[np.ndarray, "a q"]
    test: Float64[np.ndarray, "b q"]
    gram: Float64[np.ndarray, "q q"]

    @classmethod
    def of(cls, concepts: Float64[np.ndarray, "s q"], held_out: float, seed: int) -> _Division:
        rows = np.random.default_rng(seed).permutation(len(concepts))
        count = max(1, round(held_out * len(rows)))
        test, train = np.sort(rows[:count]), np.sort(rows[count:])
        fitted = np.asfortranarray(concepts[train])
        return cls(train, test, fitted, concepts[test], fitted.T @ fitted)

    def solve(
        self, words: Sequence[int], covariance: Float64[np.ndarray, " q"]
    ) -> Float64[np.ndarray, " c"]:
        """Return the least-squares weights of some words; the smallest if there are several."""
        rows = list(words)
        gram = self.gram[np.ix_(rows, rows)]
        return np.linalg.lstsq(gram, covariance[rows], rcond=1e-10)[0]

    def correlation(
        self, words: Sequence[int], weights: np.ndarray, target: Float64[np.ndarray, " b"]
    ) -> float:
        """Return the correlation of a fit with held out readouts; 0 if either is constant."""
        fitted = self.test[:, list(words)] @ weights
        fitted, target = fitted - fitted.mean(), target - target.mean()
        norm = np.linalg.norm(fitted) * np.linalg.norm(target)
        return float(fitted @ target / norm) if norm > 1e-9 else 0.0
