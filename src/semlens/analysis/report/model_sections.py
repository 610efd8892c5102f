"""The parts of a report that act on the model: the test with spurious features, the correction."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.model_test_result import ModelTest
from semlens.analysis.correct.sensitivity import ALL, COLUMNS, Sensitivity
from semlens.analysis.label import Labels
from semlens.analysis.report.sections import percent, section
from semlens.analysis.result import plain
from semlens.draw.report_page import Paragraph, ReportBlock, ReportTable, figure_picture
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
    known = {} if labels is None else {one: labels.of(one) for one in components}
    found = {component: label for component, label in known.items() if label is not None}
    for row in [] if audit is None else audit.frame.to_dict("records"):
        if row["verdict"] != "unexpected":
            side = "spurious" if row["verdict"] == "spurious" else "valid"
            found[Component.parse(row["component"])] = (
                f"{row[f'{side}_concept']} ({row['verdict']})"
            )
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


Values = Mapping[str, Any]
Tested = ModelTest | Mapping[str, Any]
"""A model test, or the values that it was saved as (.json)."""


def test_values(found: Tested) -> Values:
    """Return a test as the plain values that it is saved as."""
    return plain(found.to_json()) if isinstance(found, ModelTest) else found


@section("test", "Model test: spurious features alone")
def model_test_section(found: Tested) -> list[ReportBlock]:
    """Show how well real images are told from images of spurious features only."""
    values = test_values(found)
    real, sets = values["real"], values["sets"]
    blocks: list[ReportBlock] = [Paragraph(test_sentence(values))]
    if isinstance(found, ModelTest):
        told = "; ".join(f"{one['set']}: AUROC {_number(one['auroc'])}" for one in sets)
        blocks.append(
            figure_picture(
                found.plot(),
                f"Logits of '{values['class']}' on real images and on spurious ones. {told}.",
                "Each dot is an image. Where the clouds overlap, the model takes spurious features "
                "for the class.",
                points=real["images"] + sum(one["images"] for one in sets),
            )
        )
    rows = [
        (
            one["set"],
            one["source"],
            str(one["images"]),
            f"{_number(one['auroc'])} ({_number(one['low'])} to {_number(one['high'])})",
            percent(one["top1"]),
            percent(one["top1_without"]),
        )
        for one in sets
    ]
    columns = ["spurious", "source", "images", "AUROC (95 %)", "called it", "without"]
    if all(one["top1_without"] is None for one in sets):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    blocks += [
        ReportTable(
            f"{real['images']} real images of '{values['class']}' (called so: "
            f"{percent(real['top1'])}) against images of spurious features only",
            columns,
            rows,
            range(2, len(columns)),
        ),
        Paragraph(
            "AUROC is the chance that a real image has a larger logit of the class than a spurious "
            "one: 1 is safe, 0.5 is unsafe. 'Called it' is the share of spurious images that the "
            "model takes for the class; 'without' is the same of the images before the feature was "
            f"put in. Tested: {values['model']}."
        ),
    ]
    return blocks


def test_sentence(values: Values) -> str:
    """Say in words how the weakest set fares."""
    worst = min(values["sets"], key=lambda one: one["auroc"])
    return (
        f"With '{worst['set']}' alone, {percent(worst['top1'])} of {worst['images']} images "
        f"without '{values['class']}' are called so; real images are told from them with an AUROC "
        f"of {_number(worst['auroc'])} ({_number(worst['low'])} to {_number(worst['high'])})."
    )


@section("correction", "Correction: before and after")
def correction_section(found: Sensitivity) -> list[ReportBlock]:
    """Show accuracy before and after a correction, clean and with artefacts."""
    records = found.frame.query("`class` == @ALL").to_dict("records")
    rows = [
        (
            row["model"],
            row["images"],
            str(row["samples"]),
            f"{percent(row['accuracy'])} ({percent(row['low'])} to {percent(row['high'])})",
            _change(row["change"]),
            percent(row["removed"]),
        )
        for row in records
    ]
    told = ", ".join(
        f"{row['model']} on {row['images']} {percent(row['accuracy'])}" for row in records
    )
    return [
        Paragraph(correction_sentence(found)),
        figure_picture(
            found.plot(),
            f"Accuracy by model and set of images: {told}.",
            "Accuracy on clean images and with the artefact in all of them, and its change.",
        ),
        ReportTable(
            "Accuracy over all classes, with 95 % intervals",
            ["model", "images", "number", "accuracy", "change", "loss removed"],
            rows,
            [2, 3, 4, 5],
        ),
        Paragraph(
            "Change is from the clean images of the same model. 'Loss removed' is the part of "
            "the first model's loss that this one does without: 100 % means that the artefact "
            "costs nothing any more."
        ),
    ]


def correction_sentence(found: Sensitivity) -> str:
    """Say in words what artefacts cost the first model, and what the others avoid."""
    overall: Any = found.frame[found.frame["class"] == ALL]
    first, clean = found.models[0], found.sets[0]
    parts: list[str] = []
    for name in found.sets[1:]:
        rows = overall[overall["images"] == name].set_index("model").to_dict("index")
        lost = -rows[first]["change"]
        if not lost > 0:
            parts.append(f"With '{name}' in every image, {first} loses no accuracy.")
            continue
        told = ", ".join(
            f"{model} avoids {percent(rows[model]['removed'])} of that"
            for model in found.models[1:]
            if model in rows
        )
        parts.append(
            f"With '{name}' in every image, {first} loses {100 * lost:.1f} points of accuracy"
            + (f"; {told}." if told else ".")
        )
    rows = overall[overall["images"] == clean].set_index("model").to_dict("index")
    kept = ", ".join(f"{model} {percent(row['accuracy'])}" for model, row in rows.items())
    return " ".join([*parts, f"Accuracy on '{clean}' images: {kept}."])


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _change(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:+.1f} points"
