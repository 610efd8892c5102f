"""How often each interval that is printed holds what it is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom, norm

from benchmarks.cases.calibration.rates import LEVEL, rate
from semlens.lenses.audit.relevance_shares import share_range
from semlens.lenses.effect import correlations
from semlens.lenses.statistics.intervals import (
    auroc,
    auroc_intervals,
    change_interval,
    clustered_shares,
    wilson_interval,
)
from semlens.lenses.statistics.separation import separate
from semlens.lenses.study.correlation import correlate

NOMINAL = 1 - LEVEL


@dataclass(frozen=True)
class Coverage:
    """Whether an interval held the true value, draw by draw; ``nominal`` is None for a range."""

    name: str
    case: str
    held: np.ndarray
    nominal: float | None = NOMINAL

    def record(self, cells: int) -> dict[str, Any]:
        """Return the coverage as plain values; ``below``: by one limit over all cells."""
        share, low, high = rate(self.held[:, None])
        limit = (
            -1.0 if self.nominal is None else binom.ppf(LEVEL / cells, len(self.held), self.nominal)
        )
        return {
            "name": self.name, "case": self.case, "nominal": self.nominal, "coverage": share,
            "coverage_low": low, "coverage_high": high, "draws": len(self.held),
            "below": bool(self.held.sum() < limit),
        }  # fmt: skip


def intervals(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    """Yield the coverage of all intervals."""
    for part in (_aurocs, _accuracies, _changes, _shares, _on_images, _correlations, _ranges):
        yield from part(rng, draws)


def _held(low: Any, true: float, high: Any) -> np.ndarray:
    return (np.asarray(low) <= true + 1e-9) & (true - 1e-9 <= np.asarray(high))


def _aurocs(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    for true in (0.5, 0.8, 0.95):
        for n, m in ((5, 5), (10, 30), (15, 175)):
            values = rng.normal(size=(n + m, draws))
            values[:n] += np.sqrt(2) * norm.ppf(true)
            low, high = auroc_intervals(auroc(values[:n], values[n:]), n, m)
            yield Coverage("AUROC", f"{true:g}, {n} and {m} images", _held(low, true, high))
        for pairs in (8, 40):
            scene = 2 * rng.normal(size=(pairs, draws))
            first = scene + rng.normal(size=scene.shape) + np.sqrt(10) * norm.ppf(true)
            second = scene + rng.normal(size=scene.shape)
            found = separate(first, second, np.tile(np.arange(1, pairs + 1), 2), 1)
            yield Coverage("AUROC", f"{true:g}, {pairs} pairs", _held(found.low, true, found.high))


def _accuracies(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    for true in (0.5, 0.8, 0.95):
        for count in (10, 100):
            limits = np.array([wilson_interval(hits, count) for hits in range(count + 1)])
            low, high = limits[rng.binomial(count, true, draws)].T
            yield Coverage(
                "accuracy, TCAV score", f"{true:g}, {count} images", _held(low, true, high)
            )


def _changes(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    for count in (20, 100):
        for before, gained, lost in ((0.9, 0.0, 0.02), (0.8, 0.05, 0.05), (0.8, 0.0, 0.2)):
            for paired in (True, False):
                held = np.zeros(draws, bool)
                for draw in range(draws):
                    first, luck = rng.random(count) < before, rng.random(count)
                    second = np.where(first, luck >= lost / before, luck < gained / (1 - before))
                    if not paired:
                        second = rng.random(count) < before + gained - lost
                    _, low, high = change_interval(second, first, paired=paired)
                    held[draw] = _held(low, gained - lost, high)
                images = "the same" if paired else "other"
                case = f"{before:g}, +{gained:g} -{lost:g}, {count} images, {images} images"
                yield Coverage("change of accuracy", case, held)


def _shares(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    for folders in (3, 10, 30):
        for alike in (0.05, 0.5):
            held = np.zeros(draws, bool)
            for draw in range(draws):
                truth = np.repeat(np.arange(folders), rng.integers(1, 12, folders))
                chance = rng.beta(0.7 * (1 / alike - 1), 0.3 * (1 / alike - 1), folders)
                hits = (rng.random(len(truth)) < chance[truth]).astype(float)
                _, low, high = clustered_shares(hits[:, None], truth)
                held[draw] = _held(low[0], 0.7, high[0])
            case = f"0.7, {folders} folders, correlation {alike:g} within"
            yield Coverage("share of right labels", case, held)


def _on_images(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    relevance = rng.normal(size=(8, 1))
    for noise in (0.5, 2.0):

        def images(count: int, noise: float = noise) -> tuple[np.ndarray, np.ndarray]:
            values = relevance + noise * rng.normal(size=(8, count))
            return values, relevance + noise * rng.normal(size=(8, count))

        true = correlations(*images(100_000))[1]
        for count in (5, 40):
            held = np.zeros(draws, bool)
            for draw in range(draws):
                held[draw] = _held(*_around(true, correlations(*images(count))[2]))
            case = f"{true:.2f}, {count} images"
            yield Coverage("rank correlation on single images", case, held)


def _around(true: float, interval: tuple[float, float]) -> tuple[float, float, float]:
    return interval[0], true, interval[1]


def _correlations(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    for true in (0.0, 0.7):
        for kind in ("normal", "skewed"):
            held = np.zeros(min(draws, 400), bool)
            for draw in range(len(held)):
                x = rng.normal(size=50) if kind == "normal" else rng.exponential(size=50) - 1
                y = true * x + np.sqrt(1 - true**2) * rng.normal(size=50)
                found = correlate(x, y)
                held[draw] = _held(found.low, true, found.high)
            yield Coverage("correlation of a study", f"{true:g}, 50 questions, {kind}", held)


def _ranges(rng: np.random.Generator, draws: int) -> Iterator[Coverage]:
    """Components in a space with a list of words, and noisy examples of each."""
    dim, words, components, examples, resamples = 32, 22, 30, 15, 100
    for noise in (1.0, 2.0, 4.0):
        held = np.zeros(min(draws, 200), bool)
        for draw in range(len(held)):
            listed = _unit(rng.normal(size=(words, dim)))
            own = _unit(rng.normal(size=(components, dim)))
            has = (rng.random(components) < 0.3) * rng.random(components)
            own = _unit(own + has[:, None] * listed[rng.integers(0, words, components)])
            weight = rng.dirichlet(np.ones(components))
            crops = rng.normal(size=(components, examples, dim)) * noise / np.sqrt(dim)
            crops = _unit(own[:, None] + crops)

            def share(vectors: np.ndarray, listed: np.ndarray, weight: np.ndarray) -> Any:
                return ((_unit(vectors) @ listed.T).max(-1) > 0.45) @ weight

            times = rng.multinomial(
                examples, np.full(examples, 1 / examples), (resamples, components)
            )
            again = np.einsum("rke,ked->rkd", times, crops)
            found = float(share(crops.mean(1), listed, weight))
            low, high = share_range(found, share(again, listed, weight))
            held[draw] = _held(low, float(share(own, listed, weight)), high)
        case = f"noise of examples {noise:g} times their mean"
        yield Coverage("range of an audit's share", case, held, None)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)
