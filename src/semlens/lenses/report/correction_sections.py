"""Sections of a report on the model: the test with spurious features, and the correction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from semlens.draw.figures import draw_figure
from semlens.draw.report_page import (
    Details,
    Paragraph,
    ReportBlock,
    ReportTable,
    figure_picture,
)
from semlens.errors import DataError
from semlens.lenses.audit.model_test_result import ModelTest
from semlens.lenses.correct.artefact_sensitivity import ALL, COLUMNS, Sensitivity
from semlens.lenses.correct.before_after import BeforeAfter
from semlens.lenses.report.section_parts import section
from semlens.lenses.result import format_error, has_keys, plain, read_saved
from semlens.wording import precise

_TEST_KEYS = ("class", "model", "real", "sets")
_REAL_KEYS = ("images", "top1")
_SET_KEYS = ("set", "source", "images", "auroc", "low", "high", "top1", "top1_without")


def read_model_test(path: Path, name: str) -> Mapping[str, Any]:
    """Read a model test of a class, saved by ``semlens classes model-test --save FILE.json``.

    Raises
    ------
    DataError
        If the file is not a model test, or is of another class.
    """
    values = read_saved(path, "classes model-test", _TEST_KEYS, "sets", _SET_KEYS)
    if not has_keys(values["real"], _REAL_KEYS) or None in [
        tested["auroc"] for tested in values["sets"]
    ]:
        raise format_error(path, "classes model-test")
    if values["class"] != name:
        raise DataError(
            f"The model test '{path}' is of the class '{values['class']}'.",
            f"Expected one of '{name}'.",
            "Use a test of this class.",
        )
    return values


def read_sensitivity(path: Path) -> Sensitivity:
    """Read accuracies saved by ``semlens correct sensitivity --save FILE.json``.

    Raises
    ------
    DataError
        If the file has another format.
    """
    rows = read_saved(path, "correct sensitivity", (), "rows", COLUMNS)["rows"]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numeric = [name for name in COLUMNS if name not in ("model", "images", "class", "samples")]
    try:
        return Sensitivity(frame.astype(dict.fromkeys(numeric, float)))
    except (TypeError, ValueError) as error:
        raise format_error(path, "correct sensitivity") from error


TestValues = Mapping[str, Any]
"""A model test as it is saved to .json."""
ModelTestLike = ModelTest | TestValues
"""A model test, or its saved values."""


def test_values(test: ModelTestLike) -> TestValues:
    """Return a model test as it is saved to .json."""
    return plain(test.to_json()) if isinstance(test, ModelTest) else test


@section("test", "Model test: spurious features alone")
def model_test_section(test: ModelTestLike) -> list[ReportBlock]:
    """Show how well the model separates real images from images of spurious features only."""
    values = test_values(test)
    real, sets = values["real"], values["sets"]
    blocks: list[ReportBlock] = [Paragraph(test_sentence(values))]
    if isinstance(test, ModelTest):
        aurocs = "; ".join(f"{tested['set']}: AUROC {_number(tested['auroc'])}" for tested in sets)
        blocks.append(
            figure_picture(
                draw_figure(test.figure(), None),
                f"Logits of '{values['class']}' on real images and on spurious ones. {aurocs}.",
                "Where the distributions overlap, the model mistakes spurious features for the "
                "class.",
            )
        )
    rows = [
        (
            tested["set"],
            tested["source"].replace(":", ":\u200b"),  # a long one may break
            str(tested["images"]),
            f"{_number(tested['auroc'])} ({_number(tested['low'])} to {_number(tested['high'])})",
            precise(tested["top1"]),
            precise(tested["top1_without"]),
        )
        for tested in sets
    ]
    columns = ["spurious", "source", "images", "AUROC (95 %)", "predicted", "without"]
    if all(tested["top1_without"] is None for tested in sets):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    blocks += [
        ReportTable(
            f"{real['images']} real images of '{values['class']}' (predicted as such: "
            f"{precise(real['top1'])}) against images of spurious features only",
            columns,
            rows,
            range(2, len(columns)),
        ),
        Paragraph(
            "AUROC is the probability that a real image has a larger logit of the class than a "
            "spurious one: 1 is safe, 0.5 is unsafe. 'Predicted' is the share of spurious images "
            "that the model predicts as the class; 'without' is that share for the same images "
            f"without the feature. Tested model: {values['model']}."
        ),
    ]
    return blocks


def test_sentence(values: TestValues) -> str:
    """Describe the result of the set with the lowest AUROC."""
    worst = min(values["sets"], key=lambda tested: tested["auroc"])
    without = worst["top1_without"]
    plain = "" if without is None else f" ({precise(without)} of the same images without it)"
    return (
        f"Model test: with '{worst['set']}', {precise(worst['top1'])} of {worst['images']} images "
        f"of other classes are predicted as '{values['class']}'{plain}; the AUROC of real images "
        f"against them is {_number(worst['auroc'])} ({_number(worst['low'])} to "
        f"{_number(worst['high'])}; 1 is safe, 0.5 is unsafe)."
    )


@section("repair", "Before and after: without the spurious components", flows=True)
def repair_section(repair: BeforeAfter) -> list[ReportBlock]:
    """Show what the artefact does to other images, with and without the components."""
    sets = [("unmarked", repair.unmarked)]
    sets += [] if repair.marked is None else [("with the mark", repair.marked)]
    rows: list[tuple[str, ...]] = []
    for name, predictions in sets:
        accuracy = repair.preview.accuracy(predictions)
        mistaken = repair.preview.mistaken(predictions)
        taken = ["-", "-"] if mistaken is None else [mistaken.before, mistaken.after]
        rows.append(
            (name, str(accuracy.images), precise(accuracy.before), precise(accuracy.after),
             *(one if isinstance(one, str) else precise(one) for one in taken))
        )  # fmt: skip
    table = ReportTable(
        f"Accuracy, and images of other classes that are predicted as '{repair.name}'",
        ["images", "number", "accuracy", "after", f"predicted '{repair.name}'", "after"],
        rows,
        [1, 2, 3, 4, 5],
    )
    said = [repair.finding, repair.caution, repair.advice, repair.cost]
    return [
        Paragraph(" ".join(text for text in said if text)),
        Paragraph(
            f"The {len(repair.preview.components)} components that the audit or a person calls "
            "spurious are set to zero; no weights change. The mark is cut out of their own "
            "examples and put on images of other classes. The model may have been trained on "
            "these images: this is a preview, not a test."
        ),
        Details("Accuracy and mistaken images", [table]),
    ]


@section("correction", "Correction: before and after")
def correction_section(sensitivity: Sensitivity) -> list[ReportBlock]:
    """Show accuracy before and after a correction, clean and with artefacts."""
    records = sensitivity.frame.query("`class` == @ALL").to_dict("records")
    rows = [
        (
            row["model"],
            row["images"],
            str(row["samples"]),
            f"{precise(row['accuracy'])} ({precise(row['low'])} to {precise(row['high'])})",
            _change(row["change"]),
            precise(row["removed"]),
        )
        for row in records
    ]
    accuracies = ", ".join(
        f"{row['model']} on {row['images']} {precise(row['accuracy'])}" for row in records
    )
    return [
        Paragraph(correction_sentence(sensitivity)),
        figure_picture(
            draw_figure(sensitivity.figure(), None),
            f"Accuracy by model and set of images: {accuracies}.",
            "Accuracy on clean images and with the artefact in all of them, and the change.",
        ),
        ReportTable(
            "Accuracy over all classes, with 95 % intervals",
            ["model", "images", "number", "accuracy", "change", "loss removed"],
            rows,
            [2, 3, 4, 5],
        ),
        Paragraph(
            "'Change' is relative to clean images and the same model. 'Loss removed' is the share "
            "of the first model's loss that this model avoids: 100 % means that the artefact no "
            "longer costs any accuracy."
        ),
    ]


def correction_sentence(sensitivity: Sensitivity) -> str:
    """Describe what artefacts cost the first model, and what the other models avoid."""
    overall: Any = sensitivity.frame[sensitivity.frame["class"] == ALL]
    first, clean = sensitivity.models[0], sensitivity.sets[0]
    sentences: list[str] = []
    for name in sensitivity.sets[1:]:
        rows = overall[overall["images"] == name].set_index("model").to_dict("index")
        loss = -rows[first]["change"]
        if not loss > 0:
            sentences.append(f"With '{name}' in every image, {first} loses no accuracy.")
            continue
        avoided = ", ".join(
            f"{model} avoids {precise(rows[model]['removed'])} of that"
            for model in sensitivity.models[1:]
            if model in rows
        )
        sentences.append(
            f"With '{name}' in every image, {first} loses {100 * loss:.1f} points of accuracy"
            + (f"; {avoided}." if avoided else ".")
        )
    rows = overall[overall["images"] == clean].set_index("model").to_dict("index")
    accuracies = ", ".join(f"{model} {precise(row['accuracy'])}" for model, row in rows.items())
    return " ".join([*sentences, f"Accuracy on '{clean}' images: {accuracies}."])


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _change(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:+.1f} points"
