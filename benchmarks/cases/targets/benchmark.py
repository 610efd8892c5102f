"""Whether a target that relies on a planted sign is found, for every kind of target.

    python -m benchmarks targets [--json] [--quick] [--work DIR] [--only KIND ...]
    python -m benchmarks targets --world FILE

A detector, a segmenter, a multi-label and a one-logit classifier, a regressor and a classifier of
signals are trained on images in which a sign goes with one answer, and on the same images without
the sign (``worlds.targets``). Subjects and results are kept in ``--work`` (by default in the user's
cache folder). ``db.reliance`` decides. The measures of a world:

``found``
    The target relies on the sign at 5 %, and rises with it.
``excess``, ``p``
    By how much it rises beyond the nearest control, in standard deviations of the target over
    images, and the p-value.
``component``, ``carried``
    The component that carries the largest share of that, and the share.
``null_targets``, ``false_alarms``
    Pairs of a target and a sign of which the target does not rely on the sign, and how many have a
    p-value below 5 %, each tested by itself: all targets of the clean twin with the sign and with
    six others, and targets of the world with the sign that have nothing to do with it.

``summary`` counts worlds and null targets, with 95 % intervals (Clopper-Pearson).

A world of your own is a Python file with a function ``world()`` that returns a mapping with
``model`` (a :class:`semlens.SubjectModel`), ``images``, ``embedder``, ``target``, ``sign`` (an
artefact, its text, or a function from an image and a seed to an image), and if you like ``layers``
(by default the model's blocks), ``kind`` and ``nulls`` (targets that do not rely on the sign).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

import semlens as sl
from benchmarks.cases.targets.stranger import StrangersWorld, load_world
from benchmarks.harness import benchmark, log
from benchmarks.worlds.cache import code_digest, default_cache, remembered
from benchmarks.worlds.targets import KINDS, SIGNS, Kind, images_of, layers_of, subject
from semlens.lenses.reliance.reliance_result import ALPHA, Reliance

SEED = 20
"""Of the published worlds. Everything was chosen on seed 1."""
COUNT = 200
"""Images of a database."""
OPTIONS: dict[str, dict[str, Any]] = {
    "--only": {"nargs": "+", "default": [], "help": "only these kinds of models"},
    "--seed": {"type": int, "default": SEED, "help": "of images and models"},
    "--world": {"type": Path, "default": None, "help": "a Python file with a world of your own"},
}


class Measured:
    """A kind of model with its sign, and its clean twin."""

    def __init__(self, kind: Kind, cache: Path, seed: int, *, quick: bool) -> None:
        self.kind, self.seed, self.quick = kind, seed, quick
        self.folder = cache / f"{kind.name}-{kind.settings[:8]}-{seed}{'-quick' * quick}"

    def database(self, *, planted: bool) -> sl.ConceptDatabase:
        """Train the model, if it is not kept, and build its database, or open it."""
        name = "planted" if planted else "clean"
        model = subject(
            self.kind, self.seed, self.folder / f"{name}.pt", planted=planted, quick=self.quick
        )
        images = images_of(self.kind, 40 if self.quick else COUNT, self.seed + 1, planted=planted)
        return sl.build(
            self.folder / f"{name}.semlens", model, images, "semlens/demo",
            layers_of(model.module), crop="none", examples=3, thumbnails=False,
        )  # fmt: skip

    def measured(self) -> dict[str, Any]:
        """Return what is found, and the false alarms."""
        key = code_digest("targets")
        return remembered(self.folder / "result.json", key, self._measure)

    def _measure(self) -> dict[str, Any]:
        started = time.monotonic()
        kind, count = self.kind, 40 if self.quick else COUNT
        planted, clean = (self.database(planted=which) for which in (True, False))
        record = finding(planted.reliance(kind.target, kind.sign, count=count))
        nulls = {
            f"{target}, {kind.sign}": planted.reliance(target, kind.sign, count=count)
            for target in kind.others
        }
        signs = SIGNS[:1] if self.quick else SIGNS
        for target in (kind.target, *kind.others, *kind.same):
            for sign in (kind.sign, *signs):
                nulls[f"clean: {target}, {sign}"] = clean.reliance(target, sign, count=count)
        return {
            "kind": kind.name,
            "target": kind.target,
            "sign": kind.sign,
            **record,
            **alarms(nulls),
            "seconds": round(time.monotonic() - started),
        }


def finding(result: Reliance) -> dict[str, Any]:
    """Return the measures of a target that relies on a sign."""
    row, component = result.frame.iloc[0], result.components.iloc[0]
    carried = float(component["carried"])
    return {
        "found": bool(row["relies"] and row["excess"] > 0),
        "excess": float(row["excess"]),
        "p": float(row["p_value"]),
        "component": str(component["component"]),
        "carried": None if carried != carried else carried,
    }


def alarms(nulls: dict[str, Reliance]) -> dict[str, Any]:
    """Return the number of null targets, and those with a p-value below 5 %."""
    raised = {
        name: float(one.frame["excess"][0])
        for name, one in nulls.items()
        if one.frame["p_value"][0] < ALPHA
    }
    return {"null_targets": len(nulls), "false_alarms": len(raised), "alarms": raised}


def measure_stranger(world: StrangersWorld, folder: Path) -> dict[str, Any]:
    """Measure a world that somebody else made."""
    database = sl.build(
        folder / "stranger.semlens", world.model, world.images, world.embedder, world.layers,
        crop="none", examples=3, thumbnails=False,
    )  # fmt: skip
    count = len(database.images)
    nulls = {str(one): database.reliance(one, world.sign, count=count) for one in world.nulls}
    found = finding(database.reliance(world.target, world.sign, count=count))
    target = {"target": str(world.target), "sign": world.sign.spec}
    return {"kind": world.kind, **target, **found, **alarms(nulls)}


@benchmark(minutes=20, quoted=("docs/targets.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the worlds in sequence."""
    if options.world is not None:
        return {"worlds": [measure_stranger(load_world(options.world), work)]}
    cache = work if options.work or options.quick else default_cache().with_name("targets")
    chosen = [kind for kind in KINDS if not options.only or kind.name in options.only]
    chosen = [kind for kind in chosen if not options.quick or kind.quick]
    worlds: list[dict[str, Any]] = []
    for kind in chosen:
        worlds.append(Measured(kind, cache, options.seed, quick=options.quick).measured())
        log(json.dumps(worlds[-1]))
    found, alarmed = (sum(one[name] for one in worlds) for name in ("found", "false_alarms"))
    nulls = sum(one["null_targets"] for one in worlds)
    summary = {"found": _share(found, len(worlds)), "false_alarms": _share(alarmed, nulls)}
    return {"worlds": worlds, "summary": summary}


def _share(count: int, of: int) -> dict[str, Any]:
    found = binomtest(count, max(of, 1)).proportion_ci()
    return {"count": count, "of": of, "low": float(found.low), "high": float(found.high)}
