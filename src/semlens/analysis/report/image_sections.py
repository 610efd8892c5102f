"""Sections of a report that compare images without words: border swap, and contrast of errors."""

from __future__ import annotations

import math
from typing import Any

from semlens.analysis.contrast.contrast import Contrast
from semlens.analysis.report.sections import percent, section
from semlens.analysis.swap.border_swap import BorderSwap
from semlens.draw.report_page import Paragraph, ReportBlock, ReportTable, figure_picture

CLASSES = 12
"""Rows of a border swap that are listed besides those of the class."""
LOGITS = 5
"""Logits of a contrast that are listed."""


@section("borders", "Border swap: does the class rely on its surroundings?")
def border_section(swap: BorderSwap, name: str) -> list[ReportBlock]:
    """Show how much the borders of each class's images raise its logit on other images."""
    frame: Any = swap.frame
    own = frame["class"] == name
    listed: Any = frame[own | (frame.index < CLASSES)]
    rows = [
        (
            row["class"],
            f"{row['width']:.0%}",
            f"{row['gain']:+.2f}",
            p_text(row["p_value"]),
            p_text(row["adjusted"]),
            "yes" if row["detected"] else "no",
        )
        for row in listed.to_dict("records")
    ]
    gains = "; ".join(f"{row[0]}, border {row[1]}: {row[2]}" for row in rows[:CLASSES])
    return [
        Paragraph(border_sentence(swap, name)),
        figure_picture(
            swap.plot(),
            f"Rise of each class's logit through borders of its images. {gains}.",
            "Bars: mean rise of a class's logit on images of other classes. Below: images before "
            "and after the border was pasted.",
        ),
        ReportTable(
            "Classes by evidence; 'adjusted' is corrected for all rows tested (Bonferroni)",
            ["class", "border", "rise of the logit", "p", "adjusted", "detected"],
            rows,
            [1, 2, 3, 4],
        ),
        Paragraph(
            "This does not show marks in the middle of an image, which are not in the border. A "
            "detection says that the surroundings carry the class, not that this is wrong: "
            "aircraft are in the sky."
        ),
    ]


def border_sentence(swap: BorderSwap, name: str) -> str:
    """Describe what the borders of a class's images do to its logit on other images."""
    own: Any = swap.frame[swap.frame["class"] == name]
    rows = own.to_dict("records")
    if not rows:
        return f"'{name}' was not among the classes tested. {swap.summary}."
    best = rows[0]
    found = (
        "The class relies on its surroundings"
        if any(row["detected"] for row in rows)
        else "That is within the range of the other classes"
    )
    return (
        f"Borders of images of '{name}', pasted onto images of other classes, change its logit "
        f"by {best['gain']:+.2f} on average (border {best['width']:.0%}). {found} "
        f"(adjusted p = {p_text(best['adjusted'])})."
    )


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
    blocks: list[ReportBlock] = [
        Paragraph(f"{contrast.summary[0].upper()}{contrast.summary[1:]}."),
        figure_picture(
            contrast.plot(),
            f"Components and logits that tell {names} apart. AUROC of the first: {strongest}.",
            f"Components by AUROC: above 0.5 they are stronger in {contrast.a.name}. Lines are "
            "95 % intervals.",
        ),
        ReportTable(
            "The most separating components; p is family-wise over all components",
            ["component", "label", "AUROC (95 %)", "p", "relevance"],
            rows,
            [2, 3, 4],
        ),
    ]
    if logits:
        blocks.append(
            ReportTable(
                f"The logits that shift most: mean over {contrast.a.name} minus mean over "
                f"{contrast.b.name}; p is family-wise over all logits",
                ["class", "shift", "AUROC (95 %)", "p"],
                logits,
                [1, 2, 3],
            )
        )
    return [
        *blocks,
        Paragraph(
            "This does not show which of the differences causes the errors. Components that "
            "support the class are weaker on errors by construction; those whose examples do not "
            "show the class deserve a look."
        ),
    ]


def p_text(value: float) -> str:
    """Return a p-value as text, or a dash if it is missing."""
    if math.isnan(value):
        return "-"
    return "below 0.0001" if value < 1e-4 else f"{value:.4f}"


def _interval(row: Any) -> str:
    if math.isnan(row["auroc"]):
        return "-"
    return f"{row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
