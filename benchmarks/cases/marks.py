"""How well the mark of an artefact is cut out, against the masks with which it was planted.

The bundled model was trained with a printed mark on one class, and the demo knows the mask of each
mark. The benchmark cuts the mark out as `semlens audit` does for its repair, with three choices of
components, and compares the cut-outs (opaque to at least a half) with the planted masks (closed to
blocks: the words with the gaps between the letters):

- the planted components, which respond to the mark (AUROC of 0.9 or more);
- the spurious components of the audit, as a user would have them;
- null: as many of the class's relevant components that are neither, drawn at random.

`shifted` is the second null: the same cut-outs against the masks of the next image.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image
from scipy import ndimage

from benchmarks.harness import benchmark
from benchmarks.worlds.demo import demo_database
from semlens.demo import walkthrough
from semlens.demo.bundled_images import BundledImage, DemoWorld
from semlens.errors import DataError
from semlens.lenses.classes import find_class
from semlens.lenses.correct.mark import Mark, find_mark
from semlens.types import Component

SETS = ["demo-world/vegetable", "artefacts"]
OPAQUE = 0.5
"""Opacity from which a pixel belongs to a cut-out."""
GAP = 5
"""Pixels of 96 that are closed between the letters of a mark."""
DRAWS, QUICK_DRAWS = 3, 1
"""Draws of the null."""


def planted_mask(world: DemoWorld, picture: BundledImage) -> Bool[np.ndarray, "h w"]:
    """Return where the mark of an image is: its opaque pixels and the gaps between them."""
    if not picture.marked:
        return np.zeros(world.image(picture).size[::-1], bool)
    opaque = np.asarray(world.marks[picture.mark].getchannel("A")) > 0
    padded = np.pad(opaque, GAP)
    return ndimage.binary_closing(padded, np.ones((GAP, GAP)))[GAP:-GAP, GAP:-GAP]


def overlap(cutout: Image.Image, truth: Bool[np.ndarray, "h w"]) -> tuple[float, float, float]:
    """Return the IoU of a cut-out with a mask, its precision and its recall."""
    size = truth.shape[1], truth.shape[0]
    alpha = cutout.getchannel("A").resize(size, Image.Resampling.BILINEAR)
    found = np.asarray(alpha) >= 255 * OPAQUE
    both = (found & truth).sum()
    sizes = (found | truth).sum(), found.sum(), truth.sum()
    iou, precision, recall = (float(both / size) if size else 0.0 for size in sizes)
    return iou, precision, recall


def score(mark: Mark, truth: Sequence[Bool[np.ndarray, "h w"]]) -> dict[str, Any]:
    """Compare the cut-outs of a mark with the planted masks of their images."""
    pieces = mark.pieces.images
    own = np.mean([overlap(one, truth[n]) for one, n in zip(pieces, mark.samples, strict=True)], 0)
    turned = (*mark.samples[1:], mark.samples[0])
    shifted = [overlap(one, truth[n])[0] for one, n in zip(pieces, turned, strict=True)]
    best = max(mark.trials, key=lambda trial: trial.difference, default=None)
    return {
        "cutouts": len(pieces),
        "marked": sum(bool(truth[n].any()) for n in mark.samples),
        "iou": float(own[0]),
        "precision": float(own[1]),
        "recall": float(own[2]),
        "shifted": float(np.mean(shifted)),
        "taken": best.taken if best else None,
        "control": best.control if best else None,
        "way": mark.way,
    }


@benchmark(minutes=5, quoted=("benchmarks/README.md",))
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build the demo's database if it is missing, and cut the mark out of its images."""
    world = DemoWorld()
    db = demo_database(work, world)
    target = find_class(db, world.target)
    by_path = {str(Path(one.path).relative_to("images")): one for one in world.pictures}
    truth = [planted_mask(world, by_path[name]) for name in db.samples["path"]]
    planted = list(walkthrough.find_planted(db.model, world, db).components)
    audit = db.audit(target, SETS)
    verdicts = audit.frame
    names = verdicts["component"].map(lambda name: Component.parse(str(name)))
    spurious = names[verdicts["verdict"] == "spurious"].tolist()
    others = [one for one in names if one not in {*spurious, *planted}]
    chosen = {"planted": planted, "audit": spurious}
    for draw in range(QUICK_DRAWS if options.quick else DRAWS):
        order = np.random.default_rng(draw).permutation(len(others))[: len(spurious)]
        chosen[f"null {draw + 1}"] = [others[index] for index in order.tolist()]
    found: dict[str, Any] = {}
    for name, components in chosen.items():
        try:
            found[name] = score(find_mark(db, target, components), truth)
        except DataError as error:
            found[name] = {"error": error.value}
    return {"components": db.manifest.rows, "marks": found}
