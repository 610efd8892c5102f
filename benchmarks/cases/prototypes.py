"""Prototypes where the truth is known: planted groups, single groups, and new ordinary vectors.

python -m benchmarks prototypes                # four minutes on two slow cores
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from benchmarks.harness import benchmark, log
from benchmarks.worlds.demo import demo_database
from semlens.demo.bundled_images import DemoWorld
from semlens.lenses.prototypes.mixture import OrdinaryVectors, RelevanceMixture, choose_mixture

LAYERS = ("layer2", "layer3")
LEVEL = 0.05
NEW = 200
"""New vectors in each repetition."""
REPEATS, QUICK_REPEATS = 40, 2


def two_groups(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return vectors of two Gaussians in 12 dimensions, 30 % of them of the second."""
    mixing = np.random.default_rng(99).normal(size=(12, 12)) * np.linspace(1, 0.1, 12)
    vectors = rng.normal(size=(count, 12)) @ mixing.T
    vectors[:, 0] += 6.0 * (rng.random(count) < 0.3)
    return vectors


def one_group(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return vectors of one Gaussian in 40 dimensions, of unit variance in each."""
    mixing = rng.normal(size=(40, 40)) * np.linspace(1, 0.1, 40)
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    return rng.normal(size=(count, 40)) @ mixing.T


def skewed_shares(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return log-normal vectors as shares of their sum."""
    vectors = np.exp(0.6 * one_group(rng, count))
    return vectors / vectors.sum(1, keepdims=True)


def outlier_rates(images: int, repeats: int) -> tuple[float, float]:
    """Return the share of new vectors that are outliers, and that without cross-fitting."""
    rng = np.random.default_rng(images)
    ours: list[float] = []
    naive: list[float] = []
    for seed in range(repeats):
        vectors, new = two_groups(rng, images), two_groups(rng, NEW)
        ordinary = OrdinaryVectors.of(vectors, 2, seed)
        ours.append(float((ordinary.percentile(new) <= LEVEL).mean()))
        fit = RelevanceMixture.fit(vectors, 2, seed)
        bound = np.quantile(fit.log_likelihood(vectors), LEVEL)
        naive.append(float((fit.log_likelihood(new) <= bound).mean()))
    return float(np.mean(ours)), float(np.mean(naive))


def single(draw: Callable[[np.random.Generator, int], np.ndarray], repeats: int) -> float:
    """Return the share of sets of one group that have one prototype."""
    rng = np.random.default_rng(0)
    sets = [draw(rng, images) for _ in range(repeats // 2) for images in (60, 190)]
    return float(np.mean([choose_mixture(s, None, 4).gaussians.n_components == 1 for s in sets]))


@benchmark(minutes=4, quoted=("docs/prototypes.md",))
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build the demo's database if it is missing, and compare with the truth."""
    repeats = QUICK_REPEATS if options.quick else REPEATS
    world = DemoWorld()
    db = demo_database(work, world)
    marked = {str(Path(one.path).relative_to("images")): one.marked for one in world.pictures}
    demo: list[dict[str, Any]] = []
    for target in (world.target, "fruit"):
        for layer in LAYERS[-1:] if options.quick else LAYERS:
            log(f"{target} at {layer}")
            result: Any = db.prototypes(target, layer=layer, concepts=None)
            truth = [marked[name] for name in result.samples["path"]]
            index = adjusted_rand_score(truth, result.samples["prototype"])
            demo.append({"class": target, "layer": layer, "prototypes": len(result.frame),
                         "rand": float(index) if any(truth) else None})  # fmt: skip
    rates: list[dict[str, Any]] = []
    for images in (100, 200, 400):
        log(f"new vectors, {images} images")
        ours, naive = outlier_rates(images, repeats)
        rates.append({"images": images, "semlens": ours, "naive": naive})
    groups = {draw.__name__: single(draw, repeats) for draw in (one_group, skewed_shares)}
    return {"demo": demo, "outliers": rates, "one_prototype": groups}
