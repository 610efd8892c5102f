"""Section of a report on what tells two groups of images apart."""

from __future__ import annotations

import math
from typing import Any

from semlens.draw.report_page import Details, Paragraph, ReportBlock, ReportTable, figure_picture
from semlens.lenses.contrast.contrast import Contrast
from semlens.lenses.report.section_parts import p_text, percent, section

LOGITS = 5
"""Logits that are listed."""


@section("contrast", "Contrast: what do the errors have in common?")
def contrast_section(contrast: Contrast, shown: int) -> list[ReportBlock]:
    """Show the components and logits that tell two groups of images apart."""
    rows = [
        (
            row["component"],
            row["label"] or "-",
            _interval(row),
            p_text(row["p_value"]),
            percent(row["relevance"]),
        )
        for row in contrast.frame.head(shown).to_dict("records")
    ]
    logits = [
        (row["class"], f"{row['shift']:+.2f}", _interval(row), p_text(row["p_value"]))
        for row in contrast.logits.head(LOGITS).to_dict("records")
    ]
    names = f"{contrast.a.name} and {contrast.b.name}"
    strongest = "; ".join(f"{row[0]} ({row[1]}) {row[2]}" for row in rows[:5])
    tables = [
        ReportTable(
            "The most separating components; p is family-wise over all components",
            ["component", "label", "AUROC (95 %)", "p", "relevance"],
            rows,
            [2, 3, 4],
        ),
    ]
    if logits:
        tables.append(
            ReportTable(
                f"The logits that shift most: mean over {contrast.a.name} minus mean over "
                f"{contrast.b.name}; p is family-wise over all logits",
                ["class", "shift", "AUROC (95 %)", "p"],
                logits,
                [1, 2, 3],
            )
        )
    return [
        Paragraph(f"{contrast.summary[0].upper()}{contrast.summary[1:]}."),
        figure_picture(
            contrast.plot(),
            f"Components and logits that tell {names} apart. AUROC of the first: {strongest}.",
            f"Components by AUROC: above 0.5 they are stronger in {contrast.a.name}. Lines are "
            "95 % intervals.",
        ),
        Paragraph(
            "This does not show which of the differences causes the errors. Components that "
            "support the class are weaker on errors by construction; those whose examples do not "
            "show the class deserve a look."
        ),
        Details("Components and logits in numbers", tables),
    ]


def _interval(row: Any) -> str:
    if math.isnan(row["auroc"]):
        return "-"
    return f"{row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
