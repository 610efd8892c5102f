"""How far components move from checkpoint to checkpoint, and which labels come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from semlens.analysis.compare.sets import ComponentSet

Labels = Sequence[list[str | None]] | None
NOTHING_MOVED = pd.DataFrame(
    {"step": pd.Series(dtype=object), "component": pd.Series(dtype=object)}
    | {name: pd.Series(dtype=float) for name in ("moved", "from_last")}
)
"""The table where components do not correspond."""


def moved_components(
    sets: Sequence[ComponentSet], names: Sequence[str], labels: Labels
) -> pd.DataFrame:
    """Return how far each component moved; only where it has a vector in both steps."""
    frames: list[pd.DataFrame] = []
    for number, one in enumerate(sets):
        before = sets[number - 1] if number else None
        frame = pd.DataFrame({"step": names[number], "component": one.components})
        frame["moved"] = _distance(one, before)
        frame["from_last"] = _distance(one, sets[-1])
        if labels is not None:
            frame["label"] = pd.Series(labels[number], dtype=object)
            known = before.components if before is not None else []
            old = pd.Series(labels[number - 1] if known else [], known, dtype=object)
            other = frame["label"].fillna("") != old.reindex(one.components).fillna("").to_numpy()
            frame["relabelled"] = other.astype("boolean").where(frame["component"].isin(known))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _distance(one: ComponentSet, other: ComponentSet | None) -> np.ndarray:
    """Return 1 - cosine of each component with itself in another step; NaN where it is not."""
    found = np.full(len(one), np.nan)
    if other is not None:
        match = pd.Index(other.components).get_indexer(pd.Index(one.components))
        there = match >= 0
        cosine = np.einsum(
            "nd,nd->n", one.units[there], other.units[match[there]], dtype=np.float64
        )
        found[there] = np.maximum(1 - cosine, 0)
    return found


def movement(moved: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return means over the components of each step: moved, moved_from_last, relabelled."""
    columns = ["moved", "from_last", "relabelled"]
    table = moved.reindex(columns=["step", *columns]).astype(dict.fromkeys(columns, float))
    means: Any = table.groupby("step")[columns].mean()
    return means.reindex(list(names)).rename(columns={"from_last": "moved_from_last"})


def label_changes(names: Sequence[str], labels: Labels) -> pd.DataFrame:
    """Count labels by step, and say which of them the step before did not have, or only it."""
    rows: list[dict[str, Any]] = []
    before: set[str] | None = None
    for step, found in zip(names, labels or [], strict=False):
        counts = pd.Series(found, dtype=object).value_counts()
        for label, count in counts.items():
            new = before is not None and label not in before
            change = "gained" if new else "kept"
            rows.append({"step": step, "label": label, "count": int(count), "change": change})
        for label in sorted((before or set()) - set(counts.index)):
            rows.append({"step": step, "label": label, "count": 0, "change": "lost"})
        before = set(counts.index)
    return pd.DataFrame(rows, columns=["step", "label", "count", "change"])


def label_numbers(changes: pd.DataFrame, names: Sequence[str], labels: Labels) -> pd.DataFrame:
    """Return what the labels of each step amount to: labelled share, labels, gained, lost."""
    steps = list(names)
    if labels is None:
        return pd.DataFrame(np.nan, steps, ["labelled", "labels", "gained", "lost"])
    table = pd.crosstab(changes["step"], changes["change"])
    table = table.reindex(index=steps, columns=["kept", "gained", "lost"], fill_value=0)
    shares = [sum(label is not None for label in mine) / len(mine) for mine in labels]
    table.insert(0, "labelled", shares)
    table.insert(1, "labels", table.pop("kept") + table["gained"])
    changed = table[["gained", "lost"]].astype(float)
    changed.iloc[0] = np.nan  # there is no step before it
    return table.assign(**changed)
