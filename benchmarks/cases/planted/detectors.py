"""The detectors: what each says about every class of a database, without knowing the mark.

A detector is a function from a database to :class:`Evidence`. Whether what it says is right is
decided afterwards, with :func:`is_right`, from the true mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import binomtest

import semlens as sl
from benchmarks.worlds.planted import SIZE
from semlens.demo.bundled_images import MarkedWorld
from semlens.lenses.concepts import load_sets
from semlens.lenses.swap.parts import border_region
from semlens.types import Component

CATEGORY = MappingProxyType(
    {
        "text": "text",
        "patch": "patch",
        "texture": "pattern",
        "background": "background",
        "border": "frame",
        "cast": "colour",
    }
)
"""Category of the concept set ``artefacts`` that names each kind of mark."""
IN_PLACE = 0.5
"""Overlap of an accused region with the mark for which it counts as right."""
COVERED = 0.25
"""Share of a class's images whose most relevant region contains a pixel of the accused region."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What a detector says about one class.

    Parameters
    ----------
    p_value
        Of the class, whatever the detector says about it.
    said
        The concept or the region that is accused, in words.
    category
        Category of an accused concept.
    region
        An accused region: the pixels of an image of ``SIZE``.
    """

    p_value: float
    said: str | None = None
    category: str | None = None
    region: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Evidence:
    """What a detector says about every class.

    Parameters
    ----------
    findings
        By class.
    accuse
        Returns the accused components of a class, first the most suspected.
    """

    findings: Mapping[str, Finding]
    accuse: Callable[[str], list[Component]] = field(repr=False)


Detector = Callable[[sl.ConceptDatabase], Evidence]


def audit(database: sl.ConceptDatabase) -> Evidence:
    """Audit every class with the bundled sets."""
    sets = [*load_sets("demo-world"), *load_sets("artefacts")]
    sweep = database.audit_all(sets)
    # a class that cannot be audited, for lack of relevance, has nothing against it
    findings = {str(name): Finding(1.0) for name in database.model.classes or ()}
    for name, one in sweep.audits.items():
        p_value = float(np.nan_to_num(one.p_value, nan=1.0))
        category = one.summary.set_index("concept")["category"].get(one.suspect)
        findings[name] = Finding(p_value, one.suspect, category)
    return Evidence(findings, lambda name: sweep.audits[name].of("spurious", "both"))


def border_swap(database: sl.ConceptDatabase) -> Evidence:
    """Paste the borders of every class's images; of the two widths, the smaller p is doubled."""
    swap = database.swap(part="border")
    findings: dict[str, Finding] = {}
    for name, rows in swap.frame.groupby("class"):
        first = rows.sort_values("p_value").iloc[0]
        p_value = min(1.0, len(rows) * float(first["p_value"]))
        width = float(first["size"])
        region = border_region(SIZE, SIZE, width).numpy()
        findings[str(name)] = Finding(p_value, f"border of {100 * width:.0f} %", region=region)
    return Evidence(findings, swap.excited)


def region_swap(database: sl.ConceptDatabase) -> Evidence:
    """Paste the most relevant regions; accused is where they lie in a quarter of the images."""
    swap = database.swap(part="region")
    p_values = swap.frame.set_index("class")["p_value"]
    findings = {
        str(name): Finding(float(p), "small region", region=swap.coverage[str(name)] >= COVERED)
        for name, p in p_values.items()
    }
    return Evidence(findings, swap.excited)


def colour_swap(database: sl.ConceptDatabase) -> Evidence:
    """Transfer the colours of every class's images; the accusation has no place."""
    swap = database.swap(part="colour")
    p_values = swap.frame.set_index("class")["p_value"]
    findings = {
        str(name): Finding(float(p), "colours", category=CATEGORY["cast"])
        for name, p in p_values.items()
    }
    return Evidence(findings, swap.excited)


DETECTORS: Mapping[str, Detector] = MappingProxyType(
    {
        "audit": audit,
        "border_swap": border_swap,
        "region_swap": region_swap,
        "colour_swap": colour_swap,
    }
)


def is_right(finding: Finding, world: MarkedWorld) -> bool:
    """Return whether what is said about the target names or localises the true mark.

    Named: the concept's category is the mark's kind. Localised: the accused region and the pixels
    that any of the marks changes have at least half of the smaller one in common.
    """
    if finding.region is not None:
        return overlap(finding.region, mark_region(world)) >= IN_PLACE
    return finding.category is not None and finding.category == CATEGORY.get(world.kind)


def mark_region(world: MarkedWorld) -> np.ndarray:
    """Return the pixels that any of the marks changes."""
    return np.any([np.asarray(mark)[..., 3] > 0 for mark in world.marks.values()], axis=0)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the overlap coefficient of two regions: the common part of the smaller one."""
    return float((first & second).sum() / max(1, min(first.sum(), second.sum())))


def cut_out(
    database: sl.ConceptDatabase, samples: Sequence[int], region: np.ndarray, folder: Path
) -> None:
    """Write a region of some images as cut-outs, which can be pasted in the same place."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.where(region, 255, 0).astype(np.uint8))
    for sample in samples:
        piece = database.images.read(sample).convert("RGBA")
        piece.putalpha(mask.resize(piece.size, Image.Resampling.NEAREST))
        piece.save(folder / f"{sample:06d}.png")


LEVEL = 0.05
"""Family-wise error rate of a world, over classes and detectors."""


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return Holm's adjusted p-values, to be compared with the family-wise error rate."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def judge(
    world: MarkedWorld, target: str | None, evidence: Mapping[str, Evidence]
) -> dict[str, Any]:
    """Decide what is detected at the family-wise level, and whether it is right.

    Parameters
    ----------
    target
        The class with the mark; None for a control, where every detection is a false alarm.
    """
    tests = [(name, one) for name, said in evidence.items() for one in said.findings]
    adjusted = dict(
        zip(tests, holm([evidence[n].findings[c].p_value for n, c in tests]), strict=True)
    )
    detected = [test for test, value in adjusted.items() if value < LEVEL]
    null_classes = [name for name in world.classes if name != target]
    alarmed = {name for _, name in detected if name != target}
    detectors: dict[str, dict[str, Any]] = {}
    for name, said in evidence.items():
        smallest = min(said.findings, key=lambda one: (said.findings[one].p_value, one))
        one = smallest if target is None else target
        finding = said.findings[one]
        detectors[name] = {
            "p": finding.p_value,
            "adjusted": float(adjusted[name, one]),
            "said": finding.said,
            "right": target is not None and is_right(finding, world),
            "detected": [c for detector, c in detected if detector == name],
        }
    record = {
        "false_alarms": len(alarmed) / len(null_classes),
        "null_classes": len(null_classes),
        "detectors": detectors,
    }
    if target is None:
        return record
    found = [n for n, one in detectors.items() if one["right"] and one["adjusted"] < LEVEL]
    winner = min(found or detectors, key=lambda name: detectors[name]["p"])
    return {"found": bool(found), "winner": winner, **record}


def summarise(
    worlds: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Count found worlds, false alarms, and worlds with any false alarm, with intervals."""
    everything = [*worlds, *controls]
    null_classes = sum(one["null_classes"] for one in everything)
    alarms = sum(one["false_alarms"] * one["null_classes"] for one in everything)
    removed = [one["drop_removed"] for one in worlds if one["drop_removed"] is not None]
    summary: dict[str, Any] = {
        "null_classes": null_classes,
        "pooled_false_alarms": alarms / null_classes if null_classes else None,
        "smallest_drop_removed": min(removed, default=None),
    }
    for name, group, count in (
        ("found", worlds, sum(one["found"] for one in worlds)),
        ("with_false_alarms", everything, sum(one["false_alarms"] > 0 for one in everything)),
    ):
        if group:
            interval = binomtest(count, len(group)).proportion_ci()
            summary[name] = {
                "count": count, "of": len(group), "low": interval.low, "high": interval.high,
            }  # fmt: skip
    return summary
