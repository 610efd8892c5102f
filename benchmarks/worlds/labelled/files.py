"""Units as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.worlds.labelled.units import Units, UnseenImages
from benchmarks.worlds.labelled.vectors import save_arrays
from semlens.lenses.labelling.evidence import Evidence

ABOUT = ("world", "data", "embedder", "subject")


def save_units(units: Units, path: Path) -> None:
    """Write units to an npz file."""
    evidence = {
        f"evidence.{name}": value
        for name in Evidence.__dataclass_fields__
        if (value := getattr(units.evidence, name)) is not None
    }
    unseen = {f"unseen.{n}": getattr(units.unseen, n) for n in UnseenImages.__dataclass_fields__}
    about = {name: np.array(getattr(units, name)) for name in ABOUT}
    save_arrays(
        path, words=np.array(units.words), kind=np.array(units.kind), right=units.right,
        **about, **evidence, **unseen,
    )  # fmt: skip


def read_units(path: Path) -> Units:
    """Read units from an npz file."""
    with np.load(path) as saved:
        arrays = dict(saved)
    parts: dict[str, dict[str, np.ndarray]] = {"evidence": {}, "unseen": {}}
    for name in [n for n in arrays if "." in n]:
        part, field = name.split(".")
        parts[part][field] = arrays.pop(name)
    evidence = parts["evidence"]
    if "population" in evidence:
        evidence["population"] = evidence["population"].item()
    about = {name: arrays[name].item() for name in ABOUT}
    return Units(
        **about,
        words=tuple(arrays["words"].tolist()),
        evidence=Evidence(**evidence),  # type: ignore[arg-type]
        kind=tuple(arrays["kind"].tolist()),
        right=arrays["right"],
        unseen=UnseenImages(**parts["unseen"]),
    )
