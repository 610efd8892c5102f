"""Correction of what a detector found: images left out, artefacts inserted, and accuracies."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

import semlens as sl
from benchmarks.cases.planted.detectors import Finding, cut_out
from semlens.data.artefact_rendering import parse_colour
from semlens.demo.bundled_images import MarkedWorld
from semlens.types import Component

TRAINING = sl.Training(epochs=8, learning_rate=2e-3)
"""The networks are small and trained from scratch; they tolerate more than the default rate."""
HAND_MADE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text": ("text:© stock photo", "text:Sample 2024"),
        "patch": ("patch:{colour}:size=0.15", "patch:{colour}", "patch:{colour}:size=0.3"),
        "pattern": ("stripes:{colour}", "stripes"),
        "colour": ("hue:{colour}:0.3", "hue:{colour}:0.45"),
    }
)
"""Artefacts that a user would insert after seeing the components, by category of the concept."""
DRAWN = ("frame", "background")
"""Categories for which a user would draw overlays, with :func:`draw_overlays`."""
MOST = 0.8
"""Share of a class's images that may be left out."""
SIDE = 192
"""Pixels of a drawn overlay."""


def hand_made(finding: Finding, colour: str, folder: Path) -> tuple[str, ...]:
    """Return SPECs of artefacts like those that the finding names; none for unknown ones."""
    if finding.category in DRAWN:
        draw_overlays(finding.category, colour, folder)
        return (f"paste:{folder}",)
    return tuple(spec.format(colour=colour) for spec in HAND_MADE.get(finding.category or "", ()))


def draw_overlays(category: str, colour: str, folder: Path, count: int = 12) -> None:
    """Draw frames, or backgrounds with a soft hole in the middle, in several sizes."""
    vertical, horizontal = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1) - 0.5
    square = np.maximum(abs(vertical), abs(horizontal))
    circle = np.hypot(vertical, horizontal)
    folder.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(np.linspace(0, 1, count)):
        if category == "frame":
            opacity = 255.0 * (square > 0.47 - 0.07 * step)
        else:
            opacity = 200 * np.clip((circle - 0.15 - 0.15 * step) / 0.2, 0, 1)
        pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
        pixels[..., :3], pixels[..., 3] = parse_colour(colour), opacity
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")


def artefacts(
    db: sl.ConceptDatabase, finding: Finding, colour: str, samples: Sequence[int], folder: Path
) -> tuple[str, ...]:
    """Return the artefacts to insert: a region of the affected images, or hand-made ones."""
    shutil.rmtree(folder, ignore_errors=True)
    if finding.region is None:
        return hand_made(finding, colour, folder)
    if not samples:
        return ()
    cut_out(db, samples, finding.region, folder)
    return (f"paste:{folder}",)


def correct(
    db: sl.ConceptDatabase,
    world: MarkedWorld,
    colour: str,
    finding: Finding,
    accused: Sequence[Component],
    folder: Path,
    training: sl.Training = TRAINING,
) -> dict[str, Any]:
    """Leave out the affected images, retrain with artefacts inserted, and measure.

    Parameters
    ----------
    colour
        What a user would call the colour in the components' examples.
    accused
        Components by which affected images are recognised.
    """
    if not accused:
        return {}
    dropped = left_out(db.affected(accused, all_data=True).frame, db)
    own = dropped.query("`class` == @world.target")["sample"].tolist()
    inserted = artefacts(db, finding, colour, own, folder / "inserted")
    if not inserted:
        return {}
    checkpoint = folder / "retraining.pt"
    retrained = db.retrain(inserted, dropped["sample"].tolist(), only="train", settings=training,
        checkpoint=checkpoint,
    )  # fmt: skip
    checkpoint.unlink()
    after = accuracies(world, retrained.model)
    marked = {str(Path(p.path).relative_to("images")) for p in world.pictures if p.marked}
    hits = int(dropped["path"].isin(marked).sum())
    return {
        **{f"{name}_after": value for name, value in after.items()},
        "inserted": list(inserted) if finding.region is None else ["cut-outs"],
        "affected": len(dropped),
        "affected_precision": hits / max(1, len(dropped)),
        "affected_recall": hits / len(marked),
    }


def left_out(affected: pd.DataFrame, db: sl.ConceptDatabase) -> pd.DataFrame:
    """Return the flagged images, at most ``MOST`` of each class, highest scores first."""
    size = db.samples["target"].value_counts()
    flagged = affected.query("flagged")
    place = flagged.groupby("class").cumcount().to_numpy()
    return flagged[place < MOST * flagged["class"].map(size).to_numpy()]


def accuracies(world: MarkedWorld, model: sl.SubjectModel) -> dict[str, float]:
    """Return accuracy on the test images, all without and all with the mark."""
    return {
        version: sl.evaluate_model(model, world.images("test", version)).accuracy
        for version in ("clean", "marked")
    }


def drop_removed(before: Mapping[str, float], after: Mapping[str, float]) -> float | None:
    """Return the part of the accuracy drop that retraining removed; None if there was none."""
    drop = before["clean"] - before["marked"]
    return 1 - (after["clean_after"] - after["marked_after"]) / drop if drop > 0 else None
