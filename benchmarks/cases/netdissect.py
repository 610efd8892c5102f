"""Network Dissection and Net2Vec of the planted mark: components that encode it are detectors.

The bundled model was trained with a printed mark on one class. Masks are the difference between
each marked image and the same image without its mark, with the gaps between letters closed.
Components whose readout separates test images with the mark from the same images without it (AUROC
of 0.9 or more) are the truth; it knows nothing of places. The control is the same network with
random weights on the same images and masks, and directions found by NMF are components as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import semlens as sl
from benchmarks.harness import benchmark
from benchmarks.worlds.demo import demo_database
from semlens.demo import walkthrough
from semlens.demo.bundled_images import DemoWorld
from semlens.demo.mark_masks import write_mark_masks
from semlens.models.demo import DemoNet, demo_model, preprocess
from semlens.models.subject import SubjectModel

SEEDS, QUICK_SEEDS = 3, 1
"""Untrained networks."""
QUICK_SAMPLES = 400
DIRECTIONS = 16
"""Directions of each layer that NMF finds."""


def untrained(seed: int) -> SubjectModel:
    """Return the demo's network with random weights."""
    torch.manual_seed(seed)
    version = f"96 squash bicubic {seed}"
    return SubjectModel(DemoNet().eval(), preprocess, version, f"python:untrained{seed}")


def database(folder: Path, model: SubjectModel, images: Path, components: str) -> Any:
    """Build a database with few examples: only maps are needed."""
    settings: Any = {"examples": 3, "reference": 16, "crop": "none", "components": components}
    return sl.build(folder, model, images, "semlens/demo", walkthrough.LAYERS, **settings)


def figures(db: Any, masks: Path, options: argparse.Namespace, planted: set[str]) -> dict[str, Any]:
    """Dissect a database, and combine its components."""
    few = {"samples": QUICK_SAMPLES} if options.quick else {}
    found, combined = db.netdissect(masks, **few), db.net2vec(masks, **few)
    within = db.netdissect(masks, within_classes=True, **few)
    frame = found.to_pandas()
    detectors = set(found.detectors["component"])
    ranks = np.flatnonzero(frame["component"].isin(planted)) + 1
    return {
        "components": len(frame),
        "detectors": len(detectors),
        "above_iou": int((frame["iou"] > found.least_iou).sum()),
        "significant": int((frame["q_value"] <= found.rate).sum()),
        "within_classes": int((within.frame["q_value"] <= within.rate).sum()),
        "detectors_within_classes": len(within.detectors),
        "best": frame["iou"].iloc[0],
        "best_component": frame["component"].iloc[0],
        "expected": float(frame["expected"].median()),
        "planted": len(planted),
        "planted_detectors": len(detectors & planted),
        "planted_ranks": ranks.tolist(),
        "layers": combined.frame.drop(columns="concept").to_dict("records"),
    }


@benchmark(minutes=15, quoted=("docs/netdissect.md",))
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build the databases that are missing, and dissect them."""
    world, masks, images = DemoWorld(), work / "masks", work / "demo" / "images"
    db = demo_database(work, world)
    world.unpack(images)
    count = write_mark_masks(world, masks)
    planted = {str(one) for one in walkthrough.find_planted(db.model, world, db).components}
    results = {"trained": figures(db, masks, options, planted)}
    nmf = database(work / "nmf.semlens", demo_model(), images, f"nmf:{DIRECTIONS}")
    results["nmf"] = figures(nmf, masks, options, set())
    for seed in range(QUICK_SEEDS if options.quick else SEEDS):
        control = database(work / f"{seed}.semlens", untrained(seed), images, "channels")
        results[f"untrained {seed}"] = figures(control, masks, options, set())
    return {"masks": count, "images": db.manifest.samples, "networks": results}
