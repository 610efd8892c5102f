"""Detection of planted artefacts, and their removal by retraining.

    python -m benchmarks planted [--json] [--quick] [--work DIR] [--half HALF] [--only WORLD ...]
                                 [--no-retrain] [--train-only]

Twelve worlds are made of the bundled images without their marks, with marks of their own on 70 % of
the images of one class (``worlds.planted``), and a small network is trained on each. Six of the
worlds are held out: no detector was run on them before all choices about the detectors were fixed.
Two worlds without a mark and a network that was not trained are controls. Subjects, databases and
results are kept in ``--work`` (by default in the user's cache folder), so that a run that was
killed goes on where it was; results are measured again if code or concept sets have changed.

All worlds and controls go through the same steps, with the same settings: a database
(``relevance=True``, ``crop="auto"``); the detectors of ``detectors``, each with a
p-value for every class; Holm's procedure over all classes and detectors of the world at 5 %; and,
if the mark is found, retraining without the images that show what the winning detector accuses, and
with artefacts inserted at random (``retraining``). The measures of a world:

``found``
    For the class with the mark, a detector's adjusted p-value is below 5 %, and what it says is
    right: the concept that it names is of the mark's kind, or the region that it accuses overlaps
    the mark (at least half of the smaller one).
``rank``
    Rank of the first planted component among those that the winning detector accuses for that
    class (the right one with the smallest p; if the world is not found, the detector with the
    smallest p). Planted: its readout separates the test images with the mark from the same images
    without it (AUROC >= 0.9). None if no planted component is among them.
``false_alarms``
    Share of the null classes with an adjusted p-value below 5 % in any detector. Null classes
    (``null_classes``) are all but the one with the mark, and all classes of a control.
``drop_removed``
    1 - (clean - marked after) / (clean - marked before): the part of the accuracy drop that
    retraining removes. None if the mark is not found.
``detectors``
    By detector, of the class with the mark: ``p`` (raw), ``adjusted``, ``said`` (what it names or
    localises) and ``right``; and ``detected``, all classes that it detects. For a control, ``p``
    is the smallest of all classes.

``summary`` counts worlds, which are the unit of its intervals (Clopper-Pearson, 95 %).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import semlens as sl
from benchmarks.cases.planted.detectors import DETECTORS, Evidence, judge, summarise
from benchmarks.cases.planted.retraining import TRAINING, accuracies, correct, drop_removed
from benchmarks.harness import benchmark, log
from benchmarks.worlds.cache import (
    code_digest,
    default_cache,
    remembered,
    trained_subject,
    world_folder,
)
from benchmarks.worlds.planted import CONTROLS, DEVELOPMENT, HELD_OUT, PlantedWorld, make_world
from demo_world.nets import layers_of
from semlens.demo.walkthrough import find_planted
from semlens.recipe import fingerprint

HALVES: Mapping[str, tuple[PlantedWorld, ...]] = {
    "development": DEVELOPMENT,
    "held-out": HELD_OUT,
    "controls": CONTROLS,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "--half": {"choices": list(HALVES), "help": "only these worlds"},
    "--only": {"nargs": "+", "default": [], "help": "only the worlds of these names"},
    "--no-retrain": {"action": "store_true", "help": "stop after the detectors"},
    "--train-only": {"action": "store_true", "help": "stop before the detectors"},
}


class Measured:
    """A world and its subject, of which parts are measured or remembered."""

    def __init__(self, planted: PlantedWorld, cache: Path, quick: bool) -> None:
        self.planted, self.quick = planted, quick
        self.world = make_world(planted, 4 if quick else None)
        self.folder = world_folder(cache, planted)
        self.subject = trained_subject(planted, self.world, self.folder)
        self.key = fingerprint(code_digest(), planted.settings, str(quick))
        self._evidence: dict[str, Evidence] = {}

    def database(self) -> sl.ConceptDatabase:
        """Build the database, or open it."""
        self.world.unpack(self.folder / "images")
        return sl.build(
            self.folder / f"{self.planted.name}.semlens", self.subject, self.folder / "images",
            "semlens/demo", layers_of(self.subject.module), relevance=True,
            examples=5 if self.quick else 30,
        )  # fmt: skip

    def learned(self) -> dict[str, float]:
        """Return accuracies without and with the mark."""
        return remembered(
            self.folder / "accuracies.json", self.key, lambda: accuracies(self.world, self.subject)
        )

    def detected(self) -> dict[str, Any]:
        """Return what the detectors say."""
        return remembered(self.folder / "detected.json", self.key, self._detect)

    def corrected(self) -> dict[str, Any]:
        """Return accuracies after retraining for what was found."""
        return remembered(self.folder / "corrected.json", self.key, self._correct)

    def _detect(self) -> dict[str, Any]:
        started = time.monotonic()
        db = self.database()
        evidence = {name: self._ask(name, db) for name in DETECTORS}
        record = judge(self.world, self.planted.target, evidence)
        if self.planted.target is not None:
            planted = set(find_planted(self.subject, self.world, db).components)
            accused = evidence[record["winner"]].accuse(self.planted.target)
            ranks = [n for n, c in enumerate(accused, start=1) if c in planted]
            record |= {
                "rank": min(ranks, default=None),
                "accused": len(accused),
                "planted": len(planted),
            }
        return {**record, "seconds": round(time.monotonic() - started)}

    def _ask(self, detector: str, db: sl.ConceptDatabase) -> Evidence:
        """Run a detector once."""
        if detector not in self._evidence:
            self._evidence[detector] = DETECTORS[detector](db)
        return self._evidence[detector]

    def _correct(self) -> dict[str, Any]:
        record = self.detected()
        if not record["found"]:
            return {}
        started = time.monotonic()
        db, target = self.database(), self.world.target
        evidence = self._ask(record["winner"], db)
        training = TRAINING.model_copy(update={"epochs": 1}) if self.quick else TRAINING
        after = correct(
            db, self.world, self.planted.colour or "white", evidence.findings[target],
            evidence.accuse(target), self.folder, training,
        )  # fmt: skip
        return {**after, "retraining_seconds": round(time.monotonic() - started)}


def measure_world(one: Measured, retrain: bool) -> dict[str, Any]:
    """Measure a world or control."""
    planted, world = one.planted, one.world
    before, record = one.learned(), one.detected()
    result: dict[str, Any] = {"name": planted.name, "architecture": planted.architecture}
    if planted.target is None:
        return {**result, "accuracy": before["clean"], **record}
    after = one.corrected() if retrain else {}
    return {
        **result,
        "target": planted.target,
        "artefact": world.artefact,
        "held_out": planted.held_out,
        **before,
        **record,
        **after,
        "drop_removed": drop_removed(before, after) if "marked_after" in after else None,
    }


def selected(options: argparse.Namespace) -> list[PlantedWorld]:
    """Return the worlds and controls to measure."""
    if options.quick:
        chosen = [DEVELOPMENT[3], CONTROLS[-1]]
    else:
        chosen = [
            world
            for half, worlds in HALVES.items()
            for world in worlds
            if options.half in (None, half)
        ]
    return [world for world in chosen if not options.only or world.name in options.only]


@benchmark(minutes=90, quoted=("docs/planted.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the worlds in sequence."""
    cache = work if options.work or options.quick else default_cache()
    worlds: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    started = time.monotonic()
    chosen = selected(options)
    for number, planted in enumerate(chosen, start=1):
        one = Measured(planted.shortened() if options.quick else planted, cache, options.quick)
        if options.train_only:
            record = {"name": planted.name, **one.learned()}
        else:
            record = measure_world(one, not options.no_retrain)
        (controls if planted.target is None else worlds).append(record)
        minutes = (time.monotonic() - started) / 60
        log(f"{number} of {len(chosen)}, {minutes:.1f} min: {json.dumps(record)}")
    summary = {} if options.train_only else summarise(worlds, controls)
    return {"worlds": worlds, "controls": controls, "summary": summary}
