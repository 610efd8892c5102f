"""Sections of a report on swaps of borders, small regions, and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semlens.draw.report_page import Details, Paragraph, ReportBlock, ReportTable, figure_picture
from semlens.lenses.report.section_parts import p_text, section
from semlens.lenses.swap.border_swap import BorderSwap
from semlens.lenses.swap.colour_swap import ColourSwap
from semlens.lenses.swap.region_swap import RegionSwap
from semlens.lenses.swap.swap_result import Swap

CLASSES = 12
"""Rows of a swap that are listed besides those of the class."""


@dataclass(frozen=True)
class _Words:
    """What a kind of swap is called, and what it does not show."""

    parts: str
    moved: str
    size: str
    found: str
    limits: str


_BORDERS = _Words(
    "Borders", "pasted onto", "border", "relies on its surroundings",
    "This does not show marks in the middle of an image, which are not in the border. A detection "
    "says that the surroundings carry the class, not that this is wrong: aircraft are in the sky.",
)  # fmt: skip
_REGIONS = _Words(
    "The most relevant regions", "pasted onto", "area", "relies on a small region",
    "A detection says that a small part of the image carries the class, not that it is a mark: "
    "look at the images.",
)  # fmt: skip
_COLOURS = _Words(
    "Colours", "transferred to", "strength", "relies on colours",
    "A detection says that the colours carry the class, not that this is wrong: leaves are green.",
)  # fmt: skip


def swap_sentence(swap: Swap, name: str) -> str:
    """Describe what parts of a class's images do to its logit on other images."""
    words = _words(swap)
    own: Any = swap.frame[swap.frame["class"] == name]
    rows = own.to_dict("records")
    if not rows:
        return f"'{name}' was not among the classes tested. {swap.summary}."
    best = rows[0]
    relation = "" if best["adjusted"] < 1e-4 else "= "
    found = (
        f"The class {words.found}"
        if any(row["detected"] for row in rows)
        else "That is within the range of the other classes"
    )
    return (
        f"{words.parts} of images of '{name}', {words.moved} images of other classes, change its "
        f"logit by {best['gain']:+.2f} on average ({words.size} {100 * best[swap.size]:.0f} %). "
        f"{found} (adjusted p {relation}{p_text(best['adjusted'])})."
    )


def _words(swap: Swap) -> _Words:
    if isinstance(swap, RegionSwap):
        return _REGIONS
    return _COLOURS if isinstance(swap, ColourSwap) else _BORDERS


def _blocks(swap: Swap, name: str) -> list[ReportBlock]:
    """Show how much parts of each class's images raise its logit on other images."""
    words = _words(swap)
    frame: Any = swap.frame
    listed: Any = frame[(frame["class"] == name) | (frame.index < CLASSES)]
    rows = [
        (
            row["class"],
            f"{100 * row[swap.size]:.0f} %",
            f"{row['gain']:+.2f}",
            p_text(row["p_value"]),
            p_text(row["adjusted"]),
            "yes" if row["detected"] else "no",
        )
        for row in listed.to_dict("records")
    ]
    gains = "; ".join(f"{row[0]}, {words.size} {row[1]}: {row[2]}" for row in rows[:CLASSES])
    table = ReportTable(
        "Classes by evidence; 'adjusted' is corrected for all tests of all swaps in this report "
        "(Bonferroni)",
        ["class", words.size, "rise of the logit", "p", "adjusted", "detected"],
        rows,
        [1, 2, 3, 4],
    )
    return [
        Paragraph(swap_sentence(swap, name)),
        figure_picture(
            swap.plot(),
            f"Rise of each class's logit through parts of its images. {gains}.",
            "Bars: mean rise of a class's logit on images of other classes. Below: images before "
            "and after.",
        ),
        Paragraph(words.limits),
        Details("Classes and p-values", [table]),
    ]


@section("borders", "Border swap: does the class rely on its surroundings?")
def border_section(swap: BorderSwap, name: str) -> list[ReportBlock]:
    """Show the border swap."""
    return _blocks(swap, name)


@section("regions", "Region swap: does the class rely on a small mark?")
def region_section(swap: RegionSwap, name: str) -> list[ReportBlock]:
    """Show the region swap."""
    return _blocks(swap, name)


@section("colours", "Colour swap: does the class rely on colours?")
def colour_section(swap: ColourSwap, name: str) -> list[ReportBlock]:
    """Show the colour swap."""
    return _blocks(swap, name)
