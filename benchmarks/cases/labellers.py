"""Cost of the labelling methods, and what they find where the right labels are known.

    python -m benchmarks labellers               # some minutes

Costs: random data of realistic size, one layer of 1,000 components with 60 examples each, 1,500
words and a reference sample of 2,048 images, 512 dimensions. Labels: synthetic worlds, in which
component k fires on images that show word k; with a modality gap, all images are far from all
texts. Their labels are easy, and a method that fails there fails elsewhere; they do not rank the
methods that succeed. Rare components: the same in 20,000 images, of which the reference sample has
2,048, with words that one image in 100, 1,000 or 10,000 shows.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import (
    Measurement,
    benchmark,
    in_turns,
    largest,
    machine,
    median,
    ratio,
)
from benchmarks.worlds.labelled.synthetic import RATE, rare_world, units, world
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.registry import BUILT_IN, make_labeller

BASELINE = "semantic-lens"
WORLDS = 10
"""Synthetic worlds of each kind."""
RARE = {
    "vote, sample only": make_labeller("vote", top=0),
    **{name: BUILT_IN[name] for name in ("vote", "vote-examples", "semantic-lens-centred", "csp")},
}
"""Methods that are compared on rare components."""


@dataclass(frozen=True)
class Size:
    """Dimensions of the data of which costs are measured."""

    components: int = 1000
    words: int = 1500
    reference: int = 2048
    examples: int = 60
    images: int = 20_000
    dim: int = 512


QUICK = Size(20, 50, 100, 5, 80, 16)


def random_evidence(size: Size) -> Evidence:
    """Return evidence without a meaning; half of the readouts are 0, as behind a ReLU."""
    draw = np.random.default_rng(0)
    n, m = size.components, size.examples
    return Evidence(
        units(draw, size.words, size.dim),
        units(draw, size.images, size.dim),
        draw.integers(0, size.images, (n, m)),
        -np.sort(-draw.random((n, m), np.float32), axis=1),
        np.full(n, m),
        null=units(draw, size.dim),
        reference=units(draw, size.reference, size.dim),
        reference_readouts=np.maximum(draw.standard_normal((size.reference, n), np.float32), 0),
        annotations=draw.random((size.reference, size.words)) < 0.02,
    )


def timed(method: Labeller, evidence: Evidence) -> Measurement:
    """Time a method, with what it keeps of the evidence computed again."""
    fresh = Evidence(**{name: getattr(evidence, name) for name in Evidence.__dataclass_fields__})
    wall, cpu = time.perf_counter(), time.process_time()
    method.scores(fresh)
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def hits(method: Labeller, worlds: list[tuple[Evidence, np.ndarray]]) -> float:
    """Return the share of right labels."""
    return float(np.mean([method.scores(e).argmax(1) == truth for e, truth in worlds]))


def rare_hits(method: Labeller, leak: float, count: int) -> list[float]:
    """Return the share of right labels of components of each rate."""
    worlds = [rare_world(seed, leak) for seed in range(count)]
    right = np.array([method.scores(e).argmax(1) == truth for e, truth in worlds])
    return right.reshape(count, len(RATE), -1).mean((0, 2)).tolist()


@benchmark(minutes=5, quoted=("docs/labelling.md",), rounds=3)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure cost and right labels of each method."""
    size = QUICK if options.quick else Size()
    evidence = random_evidence(size)
    parts = {name: lambda m=m: timed(m, evidence) for name, m in BUILT_IN.items()}
    rounds = list(in_turns(parts, options.rounds))
    count = 1 if options.quick else WORLDS
    worlds = {gap: [world(seed, gap) for seed in range(count)] for gap in (0.0, 3.0)}
    return {
        "size": asdict(size),
        "methods": [
            {
                "name": name,
                "needs": list(method.needs),
                "seconds": median(rounds, name),
                "cpu_seconds": median(rounds, name, "cpu_seconds"),
                "longest_seconds": largest(rounds, name, "seconds"),
                "over_baseline": ratio(rounds, [name], [BASELINE], "cpu_seconds"),
                "hits": hits(method, worlds[0.0]),
                "hits_behind_gap": hits(method, worlds[3.0]),
            }
            for name, method in BUILT_IN.items()
        ],
        "rare": [
            {"name": name, "leak": leak, "hits": rare_hits(method, leak, 2 * count)}
            for leak in (0.0, 0.2)
            for name, method in RARE.items()
        ],
        "machine": machine(),
    }
