"""Whether an audit finds what was planted in a model, and whether retraining takes it out again.

    python benchmarks/planted.py [--json] [--work DIR] [--only WORLD/SUBJECT ...] [--no-retrain]

Without ``--work`` the bundled world and CNN are measured; with the work folder of ``demo_world``
(``demo_world/README.md`` says how to make it), all worlds and subjects in ``SUBJECTS`` whose files
are there. Each goes the way that a user would go, with the same settings and the same concepts for
all: a database (``relevance=True``, crops as ``auto`` chooses them), an audit of all classes
against the bundled sets ``demo-world`` (valid, per class) and ``artefacts`` (spurious, for every
class), the samples behind the spurious components of the target class, retraining without these
and with artefacts made by hand (``HAND_MADE``; never the planted ones), and accuracy on test images
with and without the real mark. The numbers:

``found``
    The audit raises an alarm for the class that carries the artefact, and the spurious concept
    with most relevance is of the artefact's kind.
``rank``
    Place of the first planted component among the components that the audit calls spurious or
    both for that class, most relevant first. Planted: its readout tells the test images with the
    mark from the same images without it (AUROC >= 0.9). None when the audit names none of them.
``false_alarms``
    Share of the other classes that raise an alarm.
``drop_removed``
    1 - (clean - marked after) / (clean - marked before): the part of the accuracy drop that
    retraining takes away. None when the audit names nothing that could be corrected.
``affected_precision``, ``affected_recall``
    Of the samples that were left out, how many carry the mark, and of those that do, how many were.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from crops_cases import Case, Named, bundled, load_case
from harness import Clock, command, table, tell
from PIL import Image, ImageDraw

import semlens as sl
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.sweep import Sweep
from semlens.analysis.concepts import load_sets
from semlens.data.artefact import Artefact, load_artefact
from semlens.demo.walkthrough import find_planted

SUBJECTS: tuple[Named, ...] = (
    ("rain", "vgg", 0, "mean"),
    ("patch", "vit", 0, "cls"),
    ("patch", "vgg", 0, "mean"),
    ("patch", "small", 0, "max"),
    ("held-out", "demo", 0, "mean"),
    ("main", "vit", 0, "cls"),
    ("texture", "vgg", 0, "mean"),
)
"""World, architecture, seed and readout, beside the bundled world and its residual CNN."""
CATEGORY = {"text": "text", "patch": "patch", "texture": "pattern", "rain": "background"}
"""Which part of the concept set ``artefacts`` names a kind of mark."""
HAND_MADE = {
    "text": ("text:© stock photo", "text:Sample 2024"),
    "patch": ("patch:red:size=0.15", "patch:red", "patch:red:size=0.3"),
    "pattern": ("stripes",),
    "background": ("paste:{folder}:where=same",),
}
"""What somebody who has seen the found components would overlay, by the concept's category."""


TRAINING = sl.Training(epochs=8, learning_rate=2e-3)
"""These nets are small and were trained from nothing: they bear more than the default rate."""


OPTIONS: dict[str, dict[str, Any]] = {
    "--only": {"nargs": "+", "default": [], "help": "only these, as WORLD/SUBJECT"},
    "--no-retrain": {"action": "store_true", "help": "stop after the audit"},
    "--keep": {"type": Path, "help": "folder for the databases; they are used again"},
}


def measure_case(
    case: Case, folder: Path, training: sl.Training | None, examples: int = 30
) -> dict[str, Any]:
    """Go the whole way on one subject."""
    world = case.world
    world.unpack(folder / "images")
    db = sl.build(
        folder / "db", case.model, folder / "images", "semlens/demo", case.layers,
        readout=case.readout, relevance=True, examples=examples,
    )  # fmt: skip
    sweep = sl.audit_all(db, [*load_sets("demo-world"), *load_sets("artefacts")])
    audit = sweep.audits[world.target]
    planted = find_planted(case.model, world, db)
    named = audit.summary.query("kind == 'spurious' and components > 0")
    category = named["category"].iloc[0] if len(named) else None
    accused = audit.of("spurious", "both")
    places = [n for n, c in enumerate(accused, start=1) if c in planted.components]
    others = [name for name in sweep.audits if name != world.target]
    record: dict[str, Any] = {
        "name": f"{case.name}/{case.subject}",
        "target": world.target,
        "artefact": world.artefact,
        "found": bool(audit.alarm and category == CATEGORY[world_kind(case)]),
        "rank": min(places, default=None),
        "false_alarms": sum(name in sweep.alarms for name in others) / len(others),
        "drop_removed": None,
        "p_value": audit.p_value,
        "spurious_share": claimed(audit),
        "largest_other_share": max(claimed(sweep.audits[name]) for name in others),
        "named": named["concept"].iloc[0] if len(named) else None,
        "accused": len(accused),
        "planted": len(planted.components),
        "alarms": sweep.alarms,
    }
    if training is not None:
        record |= correct(case, db, sweep, category, folder, training)
    return record


def claimed(audit: Audit) -> float:
    """Return the share of relevance that spurious concepts claim, valid ones too or not."""
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
    """Leave out what is affected, retrain with artefacts made by hand, and measure."""
    before = accuracies(case, case.model)
    found = {f"{name}_before": value for name, value in before.items()}
    accused = sweep.audits[case.world.target].of("spurious", "both")
    if not accused or category is None or category not in HAND_MADE:
        return found
    affected = sl.affected(db, accused, all_data=True)
    marked = {str(Path(p.path).relative_to("images")) for p in case.world.pictures if p.marked}
    retrained = sl.retrain(
        db, hand_made(category, folder), affected, only="train", settings=training
    )
    after = accuracies(case, retrained.model)
    hits = sum(path in marked for path in affected.paths)
    drop = before["clean"] - before["marked"]
    return found | {
        **{f"{name}_after": value for name, value in after.items()},
        "drop_removed": 1 - (after["clean"] - after["marked"]) / drop if drop > 0 else None,
        "affected": len(affected.paths),
        "affected_precision": hits / max(1, len(affected.paths)),
        "affected_recall": hits / len(marked),
    }


def accuracies(case: Case, model: sl.SubjectModel) -> dict[str, float]:
    """Return accuracy on the test images without the mark and with it on all of them."""
    return {
        "clean": sl.evaluate_model(model, case.world.images("test", "clean")).accuracy,
        "marked": sl.evaluate_model(model, case.world.images("test", "marked")).accuracy,
    }


def hand_made(category: str, folder: Path) -> list[Artefact]:
    """Return the artefacts that are overlaid in training."""
    if category == "background":
        draw_drops(folder / "drops")
    return [load_artefact(spec.format(folder=folder / "drops")) for spec in HAND_MADE[category]]


def draw_drops(folder: Path, count: int = 24, side: int = 192) -> None:
    """Draw plain drops in many blues and sizes, as somebody would who has seen the crops."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    for number in range(count):
        picture = Image.new("RGBA", (side, side), (255, 255, 255, 0))
        canvas = ImageDraw.Draw(picture)
        for _ in range(24):
            x, y, size, tone = torch.rand(4, generator=draw).tolist()
            x, y, radius = x * side, y * side, 6 + 6 * size
            fill = (round(30 + 90 * tone), round(110 + 80 * tone), 235, 235)
            canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
            tip = (x, y - 2 * radius)
            canvas.polygon([(x - radius, y), (x + radius, y), tip], fill=fill)
        picture.save(folder / f"{number:02d}.png")


def cases(work: Path | None, only: Sequence[str]) -> Iterator[Case]:
    """Yield the bundled case and those of a work folder whose files are there."""
    if not only or "main/demo" in only:
        yield bundled()
    for named in SUBJECTS if work is not None else ():
        if only and f"{named[0]}/{named[1]}" not in only:
            continue
        try:
            yield load_case(Path(work or ""), named)
        except FileNotFoundError as error:
            tell(f"left out: {error}")


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure all cases, one after the other."""
    worlds: list[dict[str, Any]] = []
    settings = TRAINING.model_copy(update={"epochs": 1}) if options.quick else TRAINING
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(options.work, options.only):
            folder = (options.keep or Path(scratch)) / f"{case.name}-{case.subject}"
            if options.quick:
                case.world.pictures = case.world.pictures[::12]
            training = None if options.no_retrain else settings
            with Clock() as clock:
                found = measure_case(case, folder, training, 5 if options.quick else 30)
            worlds.append({**found, "seconds": round(clock.seconds)})
            tell(json.dumps(worlds[-1]))
    return {"worlds": worlds}


def show(result: dict[str, Any]) -> None:
    """Print a row for each world and subject."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.0f} %"

    head = ["world/subject", "artefact on class", "found", "named", "rank", "false alarms"]
    head += ["marked before", "marked after", "clean", "drop removed"]
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
    print(table(head, rows))


if __name__ == "__main__":
    command(__doc__, measure, show, OPTIONS)
