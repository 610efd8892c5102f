"""Section of a report on the components that no concept describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from semlens.draw.report_page import (
    Badge,
    Details,
    Paragraph,
    ReportBlock,
    ReportCard,
    ReportCards,
)
from semlens.lenses.describe.unexpected import Unexpected
from semlens.lenses.labelling.component_labels import shown_names
from semlens.lenses.report.section_parts import percent, section, strip

UNFOLDED = 2
"""Components that are not folded."""
TOP_CLASSES = 5
"""Classes shown per component."""


@section("unexpected", "Unexpected components")
def unexpected_section(unexpected: Unexpected, shown: int, criterion: str) -> list[ReportBlock]:
    """Show the components that the class relies on and no concept describes."""
    blocks: list[ReportBlock] = [Paragraph(unexpected.summary()), Paragraph(criterion)]
    largest = max([v for v in unexpected.classes["mean"] if v > 0], default=1.0)
    rows = unexpected.frame.head(shown).to_dict("records")
    cards = [_unexpected_card(unexpected, row, largest) for row in rows]
    if cards:
        blocks.append(ReportCards(cards[:UNFOLDED]))
    if more := cards[UNFOLDED:]:
        blocks.append(Details(f"{len(more)} more components", [ReportCards(more)]))
    if len(unexpected) > shown:
        blocks.append(
            Paragraph(f"{len(unexpected) - shown} less relevant components are not shown.")
        )
    return blocks


def _unexpected_card(unexpected: Unexpected, row: dict[str, Any], largest: float) -> ReportCard:
    """Return a component's card, with the classes that it is most relevant for."""
    target, table = unexpected.target, unexpected.classes
    classes: Any = table[table["component"] == row["component"]]
    top = classes[classes["mean"] > 0].head(TOP_CLASSES)
    if target not in set(top["logit"]):  # the class of the report is always shown
        top = pd.concat([top.head(TOP_CLASSES - 1), classes[classes["logit"] == target]])
    near = ", ".join(
        f"{name} ({value:+.3f})" for name, value in zip(row["nearest"], row["scores"], strict=True)
    )
    lines = [
        f"{percent(row['mean'])} of its layer's relevance, at most {percent(row['max'])}; "
        f"clarity {row['clarity']:.2f}",
        f"Nearest: {near}",
        _origin(row, unexpected.name),
    ]
    (component_row,) = unexpected.database.rows_of(row["component"])
    return ReportCard(
        shown_names(unexpected.database, [row["component"]])[0],
        row["component"],
        Badge("unexpected", "unexpected"),
        lines,
        strip(unexpected.database, component_row),
        [
            (name, percent(mean), 100 * max(mean, 0.0) / largest, logit == target)
            for name, mean, logit in zip(top["class"], top["mean"], top["logit"], strict=True)
        ],
    )


def _origin(row: Mapping[str, Any], name: str) -> str:
    if row["of_class"] is pd.NA:
        return f"Examples: {row['examples_show'] or 'of unknown class'}"
    text = f"{row['of_class']} of {row['examples']} examples are of '{name}'"
    if row["examples_show"].endswith(f"'{name}'") or not row["examples_show"]:
        return text
    return f"{text}; most: {row['examples_show']}"
