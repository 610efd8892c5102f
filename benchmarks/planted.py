"""Detection of planted artefacts by audits, and their removal by retraining.

    python benchmarks/planted.py [--json] [--work DIR] [--only WORLD/SUBJECT ...] [--no-retrain]

Without ``--work`` the bundled world and CNN are measured. With the work folder of ``demo_world``
(see ``demo_world/README.md``), also all worlds and subjects in ``SUBJECTS`` whose files exist.
Every case runs the full workflow of a user, with the same settings and concepts: a database
(``relevance=True``, ``crop="auto"``), an audit of all classes with the bundled sets ``demo-world``
(valid, per class) and ``artefacts`` (spurious, for every class), the samples affected by the
spurious components of the target class, retraining without these samples and with handmade
artefacts (``HAND_MADE``, never the planted ones), and accuracy on test images with and without the
real mark. The measures:

``found``
    The audit raises an alarm for the class with the artefact, and the most relevant spurious
    concept is of the artefact's kind.
``rank``
    Rank of the first planted component among the components with the verdict spurious or both for
    that class, most relevant first. Planted: its readout separates the test images with the mark
    from the same images without it (AUROC >= 0.9). None if no planted component is among them.
``false_alarms``
    Share of the other classes that raise an alarm.
``drop_removed``
    1 - (clean - marked after) / (clean - marked before): the part of the accuracy drop that
    retraining removes. None if the audit names nothing to correct.
``affected_precision``, ``affected_recall``
    Share of the left-out samples that have the mark, and share of the samples with the mark that
    were left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from crops_cases import Case, SubjectKey, bundled, load_case
from harness import Clock, command, log, table
from PIL import Image, ImageDraw

import semlens as sl
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.sweep import Sweep
from semlens.analysis.concepts import load_sets
from semlens.data.artefact import Artefact, load_artefact
from semlens.demo.walkthrough import find_planted

SUBJECTS: tuple[SubjectKey, ...] = (
    ("rain", "vgg", 0, "mean"),
    ("patch", "vit", 0, "cls"),
    ("patch", "vgg", 0, "mean"),
    ("patch", "small", 0, "max"),
    ("held-out", "demo", 0, "mean"),
    ("main", "vit", 0, "cls"),
    ("texture", "vgg", 0, "mean"),
)
"""World, architecture, seed and readout of the subjects besides the bundled one."""
CATEGORY = {"text": "text", "patch": "patch", "texture": "pattern", "rain": "background"}
"""Category of the concept set ``artefacts`` for each kind of mark."""
HAND_MADE = {
    "text": ("text:© stock photo", "text:Sample 2024"),
    "patch": ("patch:red:size=0.15", "patch:red", "patch:red:size=0.3"),
    "pattern": ("stripes",),
    "background": ("paste:{folder}:where=same",),
}
"""Artefacts that a user would insert after seeing the components, by category of the concept."""


TRAINING = sl.Training(epochs=8, learning_rate=2e-3)
"""The networks are small and trained from scratch; they tolerate more than the default rate."""


OPTIONS: dict[str, dict[str, Any]] = {
    "--only": {"nargs": "+", "default": [], "help": "only these cases, as WORLD/SUBJECT"},
    "--no-retrain": {"action": "store_true", "help": "stop after the audit"},
    "--keep": {"type": Path, "help": "folder that keeps the databases for the next run"},
}


def measure_case(
    case: Case, folder: Path, training: sl.Training | None, examples: int = 30
) -> dict[str, Any]:
    """Run the full workflow on one subject."""
    world = case.world
    world.unpack(folder / "images")
    db = sl.build(
        folder / "db", case.model, folder / "images", "semlens/demo", case.layers,
        readout=case.readout, relevance=True, examples=examples,
    )  # fmt: skip
    sweep = sl.audit_all(db, [*load_sets("demo-world"), *load_sets("artefacts")])
    audit = sweep.audits[world.target]
    planted = find_planted(case.model, world, db)
    spurious = audit.summary.query("kind == 'spurious' and components > 0")
    category = spurious["category"].iloc[0] if len(spurious) else None
    suspects = audit.of("spurious", "both")
    ranks = [n for n, c in enumerate(suspects, start=1) if c in planted.components]
    other_classes = [name for name in sweep.audits if name != world.target]
    record: dict[str, Any] = {
        "name": f"{case.name}/{case.subject}",
        "target": world.target,
        "artefact": world.artefact,
        "found": bool(audit.alarm and category == CATEGORY[world_kind(case)]),
        "rank": min(ranks, default=None),
        "false_alarms": sum(name in sweep.alarms for name in other_classes) / len(other_classes),
        "drop_removed": None,
        "p_value": audit.p_value,
        "spurious_share": spurious_share(audit),
        "largest_other_share": max(spurious_share(sweep.audits[name]) for name in other_classes),
        "named": spurious["concept"].iloc[0] if len(spurious) else None,
        "accused": len(suspects),
        "planted": len(planted.components),
        "alarms": sweep.alarms,
    }
    if training is not None:
        record |= correct(case, db, sweep, category, folder, training)
    return record


def spurious_share(audit: Audit) -> float:
    """Return the share of relevance of components with the verdict spurious or both."""
    return audit.share("spurious") + audit.share("both")


def world_kind(case: Case) -> str:
    """Return the kind of the world's mark."""
    return getattr(case.world, "kind", "text")


def correct(
    case: Case,
    db: sl.ConceptDatabase,
    sweep: Sweep,
    category: str | None,
    folder: Path,
    training: sl.Training,
) -> dict[str, Any]:
    """Leave out affected samples, retrain with handmade artefacts, and measure."""
    before = accuracies(case, case.model)
    record = {f"{name}_before": value for name, value in before.items()}
    suspects = sweep.audits[case.world.target].of("spurious", "both")
    if not suspects or category is None or category not in HAND_MADE:
        return record
    affected = sl.affected(db, suspects, all_data=True)
    marked = {str(Path(p.path).relative_to("images")) for p in case.world.pictures if p.marked}
    retrained = sl.retrain(
        db, handmade_artefacts(category, folder), affected, only="train", settings=training
    )
    after = accuracies(case, retrained.model)
    hits = sum(path in marked for path in affected.paths)
    drop = before["clean"] - before["marked"]
    return record | {
        **{f"{name}_after": value for name, value in after.items()},
        "drop_removed": 1 - (after["clean"] - after["marked"]) / drop if drop > 0 else None,
        "affected": len(affected.paths),
        "affected_precision": hits / max(1, len(affected.paths)),
        "affected_recall": hits / len(marked),
    }


def accuracies(case: Case, model: sl.SubjectModel) -> dict[str, float]:
    """Return accuracy on the test images, all without and all with the mark."""
    return {
        "clean": sl.evaluate_model(model, case.world.images("test", "clean")).accuracy,
        "marked": sl.evaluate_model(model, case.world.images("test", "marked")).accuracy,
    }


def handmade_artefacts(category: str, folder: Path) -> list[Artefact]:
    """Return the artefacts to insert in training."""
    if category == "background":
        draw_drops(folder / "drops")
    return [load_artefact(spec.format(folder=folder / "drops")) for spec in HAND_MADE[category]]


def draw_drops(folder: Path, count: int = 24, side: int = 192) -> None:
    """Draw simple drops in several blues and sizes, like those in the crops."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        picture = Image.new("RGBA", (side, side), (255, 255, 255, 0))
        canvas = ImageDraw.Draw(picture)
        for _ in range(24):
            x, y, size, tone = torch.rand(4, generator=generator).tolist()
            x, y, radius = x * side, y * side, 6 + 6 * size
            fill = (round(30 + 90 * tone), round(110 + 80 * tone), 235, 235)
            canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
            tip = (x, y - 2 * radius)
            canvas.polygon([(x - radius, y), (x + radius, y), tip], fill=fill)
        picture.save(folder / f"{number:02d}.png")


def cases(work: Path | None, only: Sequence[str]) -> Iterator[Case]:
    """Yield the bundled case and those of a work folder whose files exist."""
    if not only or "main/demo" in only:
        yield bundled()
    for key in SUBJECTS if work is not None else ():
        if only and f"{key[0]}/{key[1]}" not in only:
            continue
        try:
            yield load_case(Path(work or ""), key)
        except FileNotFoundError as error:
            log(f"left out: {error}")


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure all cases in sequence."""
    worlds: list[dict[str, Any]] = []
    settings = TRAINING.model_copy(update={"epochs": 1}) if options.quick else TRAINING
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(options.work, options.only):
            folder = (options.keep or Path(scratch)) / f"{case.name}-{case.subject}"
            if options.quick:
                case.world.pictures = case.world.pictures[::12]
            training = None if options.no_retrain else settings
            with Clock() as clock:
                record = measure_case(case, folder, training, 5 if options.quick else 30)
            worlds.append({**record, "seconds": round(clock.seconds)})
            log(json.dumps(worlds[-1]))
    return {"worlds": worlds}


def show(result: dict[str, Any]) -> None:
    """Print a row per world and subject."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f} %"

    header = ["world/subject", "artefact on class", "found", "named", "rank", "false alarms"]
    header += ["marked before", "marked after", "clean", "drop removed"]
    rows = [
        [
            row["name"],
            f"{row['artefact']} on {row['target']}",
            f"{'yes' if row['found'] else 'NO'} (p = {row['p_value']:.3f})",
            row["named"],
            row["rank"],
            share(row["false_alarms"]),
            share(row.get("marked_before")),
            share(row.get("marked_after")),
            f"{share(row.get('clean_before'))} to {share(row.get('clean_after'))}",
            share(row["drop_removed"]),
        ]
        for row in result["worlds"]
    ]
    print(table(header, rows))


if __name__ == "__main__":
    command(__doc__, measure, show, OPTIONS)
