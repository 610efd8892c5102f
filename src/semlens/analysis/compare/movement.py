"""How far components move from checkpoint to checkpoint, and which labels come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from semlens.analysis.compare.sets import ComponentSet

NOTHING_MOVED = pd.DataFrame(
    {"step": pd.Series(dtype=object), "component": pd.Series(dtype=object)}
    | {name: pd.Series(dtype=float) for name in ("moved", "from_last")}
)
"""The table where components do not correspond."""


def moved_components(
    sets: Sequence[ComponentSet], names: Sequence[str], labels: list[list[str | None]] | None
) -> pd.DataFrame:
    """Return how far each component moved; only where it has a vector in both steps."""
    frames: list[pd.DataFrame] = []
    last = pd.Series(np.arange(len(sets[-1])), index=sets[-1].components)
    before = pd.Series(dtype=np.int64)
    for number, one in enumerate(sets):
        now = pd.Series(np.arange(len(one)), index=one.components)
        frame = pd.DataFrame({"step": names[number], "component": one.components})
        frame["moved"] = _distance(one, now, sets[number - 1], before)
        frame["from_last"] = _distance(one, now, sets[-1], last)
        if labels is not None:
            frame["label"] = pd.Series(labels[number], dtype=object)
            earlier = before.reindex(now.index).to_numpy()
            frame["relabelled"] = pd.array([pd.NA] * len(now), dtype="boolean")
            there = np.flatnonzero(~np.isnan(earlier.astype(float)))
            if number:
                old = labels[number - 1]
                frame.loc[there, "relabelled"] = [
                    labels[number][i] != old[int(earlier[i])] for i in there
                ]
        frames.append(frame)
        before = now
    return pd.concat(frames, ignore_index=True)


def _distance(
    one: ComponentSet, now: pd.Series, other: ComponentSet, places: pd.Series
) -> np.ndarray:
    """Return 1 - cosine of each component with itself in another step; NaN where it is not."""
    found = np.full(len(now), np.nan)
    match = places.reindex(now.index).to_numpy(dtype=float)
    there = ~np.isnan(match)
    twins = other.units[match[there].astype(np.int64)]
    cosine = np.einsum("nd,nd->n", one.units[there], twins, dtype=np.float64)
    found[there] = np.maximum(1 - cosine, 0)
    return found


def movement(moved: pd.DataFrame, step: str) -> dict[str, float]:
    """Return means over the components of a step: moved, moved_from_last, relabelled."""
    names = {"moved": "moved", "moved_from_last": "from_last", "relabelled": "relabelled"}
    if moved.empty:
        return dict.fromkeys(names, float("nan"))
    part = moved.loc[moved["step"] == step]
    return {
        name: mean(part[column].astype("Float64").to_numpy(float, na_value=np.nan))
        if column in part
        else float("nan")
        for name, column in names.items()
    }


def mean(values: np.ndarray) -> float:
    """Return the mean of what is known; NaN of nothing."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def label_changes(names: Sequence[str], labels: list[list[str | None]] | None) -> pd.DataFrame:
    """Count labels by step, and say which of them the step before did not have, or only it."""
    rows: list[dict[str, Any]] = []
    before: set[str] | None = None
    for step, found in zip(names, labels or [], strict=False):
        counts = pd.Series(found, dtype=object).value_counts()
        for label, count in counts.items():
            new = before is not None and label not in before
            rows.append({"step": step, "label": label, "count": int(count)})
            rows[-1]["change"] = "gained" if new else "kept"
        for label in sorted((before or set()) - set(counts.index)):
            rows.append({"step": step, "label": label, "count": 0, "change": "lost"})
        before = set(counts.index)
    return pd.DataFrame(rows, columns=["step", "label", "count", "change"])


def label_numbers(
    counted: pd.DataFrame, step: str, place: int, labels: list[list[str | None]] | None
) -> dict[str, float]:
    """Return what a step's labels amount to: labelled share, labels, gained, lost."""
    names = ("labelled", "labels", "gained", "lost")
    if labels is None:
        return dict.fromkeys(names, float("nan"))
    part = counted.loc[counted["step"] == step]
    mine = labels[place]
    found = {"labelled": sum(label is not None for label in mine) / len(mine)}
    found["labels"] = int(np.count_nonzero(part["count"] > 0))
    for change in ("gained", "lost"):
        number = int(np.count_nonzero(part["change"] == change))
        found[change] = number if place else float("nan")
    return found
