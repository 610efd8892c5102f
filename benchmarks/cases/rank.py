"""Examples by relevance and by activation, side by side, on the demo's model and images.

    python -m benchmarks rank                      # five minutes
    python -m benchmarks rank --work FOLDER        # keeps the databases: no second build

The databases differ in ``--rank`` only. Which components are planted is measured on images with and
without the mark, and ranks are among all components. Intervals are 95 % bootstrap intervals over
components.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np

import semlens as sl
from benchmarks.harness import StageClock, benchmark
from semlens.demo import walkthrough
from semlens.demo.bundled_images import DemoWorld
from semlens.lenses.statistics.intervals import auroc
from semlens.types import Rank

RANKS: tuple[Rank, ...] = get_args(Rank)
QUERIES = ("written text", "watermark", "letter")
MEASURES = ("clarity", "polysemanticity", "redundancy")
QUICK_IMAGES = 64
DRAWS = 2000


def build(folder: Path, rank: Rank, *, quick: bool) -> tuple[sl.ConceptDatabase, dict[str, float]]:
    """Build a database as the demo does; return it with the CPU seconds of its stages."""
    clock, started = StageClock(), time.process_time()
    images: Any = sl.load_images(folder / "images")
    if quick:
        images = [images.read(i) for i in range(QUICK_IMAGES)]
    path = folder / f"{rank}.semlens"
    db = sl.build(
        path, "semlens/demo", images, "semlens/demo", walkthrough.LAYERS, crop="activation",
        reference=walkthrough.REFERENCE, rank=rank, progress=clock,
    )  # fmt: skip
    seconds = time.process_time() - started
    spent = {
        name.removesuffix("/cpu_seconds"): value
        for name, value in clock.read().items()
        if name.endswith("/cpu_seconds") and not name.startswith("finish")
    }
    return db, {**spent, "build": seconds}


def examples_of(db: sl.ConceptDatabase) -> list[np.ndarray]:
    """Return the samples of the examples of every component."""
    found: list[np.ndarray] = []
    for row in range(db.manifest.rows):
        found.append(np.array([example.sample for example in db.examples_of(row)], np.int64))
    return found


def describe(db: sl.ConceptDatabase, planted: walkthrough.Planted) -> dict[str, Any]:
    """Return what is compared, of one database."""
    frame, examples = db.scores().frame, examples_of(db)
    rows = db.rows_of(list(planted.components))
    is_planted = np.isin(np.arange(db.manifest.rows), rows)
    queries: dict[str, dict[str, Any]] = {}
    for query in QUERIES:
        hits = db.search(query, top=db.manifest.rows)
        alignment = np.full((db.manifest.rows, 1), -np.inf)
        alignment[[hit.row for hit in hits.hits], 0] = [hit.alignment for hit in hits.hits]
        area = auroc(alignment[is_planted], alignment[~is_planted])
        queries[query] = {"rank": planted.rank(hits), "auroc": float(area[0])}
    classes = db.samples["target"].to_numpy()
    return {
        "queries": queries,
        "without examples": int((~db.has_examples).sum()),
        "classes per component": float(np.mean([len({*classes[e]}) for e in examples])),
        "images that are examples": len(np.unique(np.concatenate(examples))),
        "measures": {name: frame[name].to_numpy(float).tolist() for name in MEASURES},
    }


def compare(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Return the mean of each, and of the difference with its interval."""
    both = np.isfinite(first) & np.isfinite(second)
    difference = (second - first)[both]
    rng = np.random.default_rng(0)
    drawn = difference[rng.integers(0, len(difference), (DRAWS, len(difference)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    means = dict(zip(RANKS, (float(first[both].mean()), float(second[both].mean())), strict=True))
    return {**means, "difference": float(difference.mean()), "low": low, "high": high}


@benchmark(minutes=5, quoted=("docs/concepts.md",))
def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build both databases and compare them."""
    world = DemoWorld()
    world.unpack(folder / "images")
    built = {rank: build(folder, rank, quick=options.quick) for rank in RANKS}
    databases = {rank: db for rank, (db, _) in built.items()}
    by_activation = databases["activation"]
    planted = walkthrough.find_planted(by_activation.model, world, by_activation)
    found = {rank: describe(db, planted) for rank, db in databases.items()}
    one, two = (examples_of(db) for db in databases.values())
    shared = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(one, two, strict=True) if len(b)]
    scores = [found[rank].pop("measures") for rank in RANKS]
    return {
        "planted": len(planted.components),
        "components": by_activation.manifest.rows,
        "shared examples": float(np.mean(shared)),
        "cpu seconds": {rank: spent for rank, (_, spent) in built.items()},
        "measures": {
            name: compare(*(np.array(values[name], float) for values in scores))
            for name in MEASURES
        },
        **found,
    }
