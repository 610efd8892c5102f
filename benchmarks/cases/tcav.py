"""How often TCAV finds a concept significant that is random images: false positive rates.

Concepts are random images of the demo, so nothing is to be found. Two tests are compared: that of
semlens, and the t-test of Kim et al. 2018 between the scores of a concept's CAVs, each against
another random set, and the scores of CAVs between two random sets.

    python -m benchmarks tcav                      # eight minutes on two slow cores
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

from benchmarks.cases.calibration.rates import LEVEL, Rate
from benchmarks.harness import benchmark, log
from benchmarks.worlds.demo import demo_database
from semlens.demo.bundled_images import DemoWorld
from semlens.lenses.tcav.concept_test import Sensitivities, concept_test, fit_vectors
from semlens.lenses.tcav.tcav import class_gradients
from semlens.models.forward import readouts

LAYERS = ("layer2", "layer3")
IMAGES, POOL, SAMPLES = 30, 300, 40
COUNTERS = 5
DRAWS = 39
"""Random concepts: the fewest for which 0.05 is a possible p-value."""
FITS = 30
"""CAVs of each side of the t-test."""
CONCEPTS, QUICK_CONCEPTS = 150, 2


def t_test(
    values: np.ndarray, gradients: list[np.ndarray], rng: np.random.Generator
) -> list[float]:
    """Return the p-value of each class by the t-test of Kim et al."""
    rows = np.arange(len(values))
    concept, others = rows[:IMAGES], rows[IMAGES:]
    own = [fit_vectors(values, concept, others, 1, rng) for _ in range(FITS)]
    null = []
    for _ in range(FITS):
        shuffled = rng.permutation(others)
        null.append(fit_vectors(values, shuffled[:IMAGES], shuffled[IMAGES:], 1, rng))
    p_values: list[float] = []
    for of_class in gradients:
        own_scores, null_scores = (
            [Sensitivities.of(of_class, one).score for one in side] for side in (own, null)
        )
        p = float(ttest_ind(own_scores, null_scores, equal_var=False).pvalue)
        p_values.append(1.0 if np.isnan(p) else p)  # all scores are the same
    return p_values


@benchmark(minutes=8, quoted=("docs/tcav.md",))
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build the demo's database if it is missing, and test random concepts on all classes."""
    world = DemoWorld()
    db = demo_database(work, world)
    numbers, layers = range(len(world.classes)), LAYERS[-1:] if options.quick else LAYERS
    gradients = [class_gradients(db, number, layers, SAMPLES, 32) for number in numbers]
    values = readouts(db.model, db.images.read, range(db.manifest.samples), layers)
    rates: list[Rate] = []
    for layer in layers:
        of_layer = [one[layer] for one in gradients]
        found: dict[str, list[list[float]]] = {"semlens": [], "t-test": []}
        for number in range(QUICK_CONCEPTS if options.quick else CONCEPTS):
            log(f"{layer}: random concept {number + 1}")
            rng = np.random.default_rng(number)
            drawn = rng.permutation(len(values[layer]))[: IMAGES + POOL]
            part = values[layer][drawn].astype(np.float64)
            test = concept_test(part, IMAGES, of_layer, counters=COUNTERS, draws=DRAWS, seed=number)
            found["semlens"].append([test.p_value(index) for index in numbers])
            found["t-test"].append(t_test(part, of_layer, rng))
        # p-values are multiples of 0.05, which rounding must not lift above it
        rates += [
            Rate(name, layer, LEVEL, np.array(p) <= LEVEL + 1e-9) for name, p in found.items()
        ]
    return {"rates": [one.record() for one in rates]}
