"""Cost of the labelling methods, and what they find where the right labels are known.

    python benchmarks/labellers.py               # some minutes
    python benchmarks/labellers.py --json
    python benchmarks/labellers.py --quick

Costs: random data of realistic size, one layer of 1,000 components with 60 examples each, 1,500
words and a reference sample of 2,048 images, 512 dimensions. Labels: synthetic worlds, in which
component k fires on images that show word k; with a modality gap, all images are far from all
texts. Their labels are easy, and a method that fails there fails elsewhere; they do not rank the
methods that succeed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Measurement, command, in_turns, largest, machine, median, ratio, table

from semlens.analysis.labelling.evidence import Evidence
from semlens.analysis.labelling.labeller import Labeller
from semlens.analysis.labelling.registry import BUILT_IN

BASELINE = "semantic-lens"
WORLDS = 10
"""Synthetic worlds of each kind."""


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


def units(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Return random unit vectors."""
    vectors = draw.standard_normal(shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


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


def world(seed: int, gap: float, noise: float = 0.5) -> tuple[Evidence, np.ndarray]:
    """Return a synthetic world of 20 components and 60 words, and the right words.

    Parameters
    ----------
    gap
        Length of what all images, and in another direction all texts, have in common.
    noise
        Standard deviation of each of an image's 24 values about those of its word.
    """
    draw = np.random.default_rng(seed)
    words, dim, images = 60, 24, 1500
    text = units(draw, words, dim)
    shown = draw.integers(0, words, images)
    truth = draw.permutation(words)[:20]
    common = np.linalg.qr(draw.standard_normal((dim, 2)))[0].T.astype(np.float32)
    vectors = text[shown] + noise * draw.standard_normal((images, dim), np.float32)
    vectors, text = vectors + gap * common[0], text + gap * common[1]
    readouts = (shown[:, None] == truth) + 0.2 * draw.random((images, len(truth)), np.float32)
    evidence = Evidence.of_reference(
        text / np.linalg.norm(text, axis=1, keepdims=True),
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        readouts.astype(np.float32),
        20,
        annotations=shown[:, None] == np.arange(words),
    )
    return evidence, truth


def timed(method: Labeller, evidence: Evidence) -> Measurement:
    """Time a method, with what it keeps of the evidence computed anew."""
    fresh = Evidence(**{name: getattr(evidence, name) for name in Evidence.__dataclass_fields__})
    wall, cpu = time.perf_counter(), time.process_time()
    method.scores(fresh)
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def hits(method: Labeller, worlds: list[tuple[Evidence, np.ndarray]]) -> float:
    """Return the share of right labels."""
    return float(np.mean([method.scores(e).argmax(1) == truth for e, truth in worlds]))


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
        "machine": machine(),
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    print("Seconds of CPU for:", ", ".join(f"{v:,} {k}" for k, v in result["size"].items()))
    header = ["method", "CPU s", f"over {BASELINE}", "right", "right behind a gap"]
    keys = "name", "cpu_seconds", "over_baseline", "hits", "hits_behind_gap"
    print(table(header, [[one[key] for key in keys] for one in result["methods"]]))


if __name__ == "__main__":
    command(__doc__, measure, show, {}, rounds=3)
