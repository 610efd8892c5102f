"""What a report is given: results that were saved before, and the labels of its graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from semlens.analysis.audit.found import Audit
from semlens.analysis.correct.sensitivity import COLUMNS, Sensitivity
from semlens.analysis.label import Labels
from semlens.errors import DataError
from semlens.types import Component

_TEST_KEYS = ("class", "model", "real", "sets")
_REAL_KEYS = ("images", "top1")
_SET_KEYS = ("set", "source", "images", "auroc", "low", "high", "top1", "top1_without")


def read_model_test(path: Path, name: str) -> Mapping[str, Any]:
    """Read a result of ``semlens test --save FILE.json`` of a class.

    Raises
    ------
    DataError
        If the file is none, or is of another class.
    """
    values = _read(path, "test", _TEST_KEYS, "sets", _SET_KEYS)
    if not _has(values["real"], _REAL_KEYS) or None in [one["auroc"] for one in values["sets"]]:
        raise _wrong(path, "test")
    if values["class"] != name:
        raise DataError(
            f"The test '{path}' is of the class '{values['class']}'.",
            f"Expected one of '{name}'.",
            "Give the test of this class.",
        )
    return values


def read_sensitivity(path: Path) -> Sensitivity:
    """Read a result of ``semlens evaluate --save FILE.json``.

    Raises
    ------
    DataError
        If the file is none.
    """
    rows = _read(path, "evaluate", (), "rows", COLUMNS)["rows"]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = [name for name in COLUMNS if name not in ("model", "images", "class", "samples")]
    try:
        return Sensitivity(frame.astype(dict.fromkeys(numbers, float)))
    except (TypeError, ValueError) as error:
        raise _wrong(path, "evaluate") from error


def graph_labels(
    components: Sequence[Component], audit: Audit | None, labels: Labels | None
) -> dict[Component, str]:
    """Name components for the graph: by the audit's concepts, else by a vocabulary's label."""
    found: dict[Component, str] = {}
    if labels is not None:
        for component in components:
            label = labels.of(component)
            if label is not None:
                found[component] = label
    for row in [] if audit is None else audit.frame.to_dict("records"):
        if row["verdict"] != "unexpected":
            side = "spurious" if row["verdict"] == "spurious" else "valid"
            component = Component.parse(row["component"])
            found[component] = f"{row[f'{side}_concept']} ({row['verdict']})"
    return found


def _read(
    path: Path, command: str, keys: Sequence[str], rows: str, columns: Sequence[str]
) -> Mapping[str, Any]:
    """Read a file that has some keys, and under one of them rows with some columns."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"'{path}' cannot be read ({error}).",
            f"Expected a result of 'semlens {command}'.",
            f"Make one: semlens {command} ... --save FILE.json",
        ) from error
    found = values.get(rows) if _has(values, keys) else None
    if not isinstance(found, list) or not found or not all(_has(one, columns) for one in found):
        raise _wrong(path, command)
    return values


def _has(value: Any, keys: Sequence[str]) -> bool:
    return isinstance(value, dict) and all(key in value for key in keys)


def _wrong(path: Path, command: str) -> DataError:
    return DataError(
        f"'{path}' holds something else.",
        f"Expected a result of 'semlens {command}'.",
        f"Make one: semlens {command} ... --save FILE.json",
    )
