"""Queries for the components of a defect: words, pictures, marked minus plain images.

The bundled model was trained with a printed mark on one class. Components that separate test
images with the mark from the same images without it (AUROC of 0.9 or more) are the truth. The
queries know nothing of that mark: they use words, or a similar one (`text:© stock`, anywhere in
the image) that is inserted into images of the other classes. For each query the ranks of the true
components are reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import semlens as sl
from benchmarks.harness import benchmark
from benchmarks.worlds.demo import demo_database
from semlens.demo import walkthrough
from semlens.demo.bundled_images import DemoWorld
from semlens.lenses.search.search import Hits
from semlens.types import Component

MARK = "text:© stock"
STEP, QUICK_STEP = 20, 200
"""Every how many-th image of the other classes gets the mark."""


def write_pairs(db: sl.ConceptDatabase, target: str, step: int, folder: Path) -> int:
    """Write images of the other classes to ``plain`` and ``marked``; return their number."""
    mark = sl.load_artefact(MARK)
    others = np.flatnonzero(db.samples["target"].to_numpy() != target)[::step].tolist()
    for name in ("plain", "marked"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for sample in others:
        image = db.images.read(sample)
        image.save(folder / "plain" / f"{sample}.png")
        mark.insert(image, seed=sample).save(folder / "marked" / f"{sample}.png")
    return len(others)


@benchmark(minutes=2, quoted=("docs/search.md",))
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build the demo's database if it is missing, and rank its components by each query."""
    world = DemoWorld()
    db = demo_database(work, world)
    truth = set(walkthrough.find_planted(db.model, world, db).components)
    count = write_pairs(db, world.target, QUICK_STEP if options.quick else STEP, work)
    marked, plain = work / "marked", work / "plain"
    one = sorted(marked.iterdir())[0]

    def search(*texts: str, **settings: Any) -> list[int]:
        hits: Hits = db.search(*texts, top=db.manifest.rows, **settings)
        return ranks(hits.components)

    def ranks(components: Iterable[Component]) -> list[int]:
        return [rank for rank, one in enumerate(components, start=1) if one in truth]

    return {
        "components": db.manifest.rows,
        "planted": len(truth),
        "images": count,
        "ranks": {
            "search watermark": search("watermark"),
            "search text": search("text"),
            "search --image ONE_MARKED": search(images=one),
            "search --image marked/": search(images=marked),
            "search --image ONE_MARKED --without-image ONE_PLAIN": search(
                images=one, without_images=plain / one.name
            ),
            "search --image marked/ --without-image plain/": search(
                images=marked, without_images=plain
            ),
            "contrast --a marked/ --b plain/": ranks(
                db.contrast(marked, plain, concepts=None).components
            ),
        },
    }
