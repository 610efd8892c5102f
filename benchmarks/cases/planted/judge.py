"""What counts as found and as a false alarm: one family of tests per world; intervals by world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks.cases.planted.detectors import Evidence, is_right
from semlens.demo.bundled_images import MarkedWorld

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
