"""Sections of a report on the components: map, graph, examples, and what no concept describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from semlens.draw.graph_layout import verdicts_text
from semlens.draw.map_colours import Scale
from semlens.draw.report_page import (
    Badge,
    Details,
    Paragraph,
    ReportBlock,
    ReportCard,
    ReportCards,
    ReportTable,
    figure_picture,
    svg_picture,
)
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.describe.concept_map import ConceptMap
from semlens.lenses.describe.unexpected import Unexpected
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.labelling.component_labels import shown_names
from semlens.lenses.report.section_parts import STRIP, section, strip
from semlens.lenses.scores import Scores
from semlens.store.reader import Database
from semlens.types import Component
from semlens.wording import precise

DETAILED = 6
"""Components shown with more examples."""


@section("map", "Concept map", flows=True)
def map_section(concept_map: ConceptMap, name: str) -> list[ReportBlock]:
    """Show the components as points in semantic space."""
    places = concept_map.places.to_dict("records")
    labels = [", ".join(row["labels"]) for row in places if row["labels"]]
    about = f" Places are about: {'; '.join(labels[:12])}." if labels else ""
    colour = f"relevance for '{name}'" if isinstance(concept_map.colouring, Scale) else "place"
    picture = figure_picture(
        concept_map.plot(),
        f"Map of {len(concept_map)} components in the plane. Colour: {colour}.{about}",
        f"Each point is a component; close points have similar examples. Colour: {colour}. "
        "Distances in the plane are approximate; labels describe means over places.",
        points=len(concept_map),
    )
    rows = [
        (
            ", ".join(row["labels"]) or "no label",
            str(row["size"]),
            ", ".join(f"{a:.3f}" for a in row["scores"]),
        )
        for row in places[:12]
    ]
    table = ReportTable("The largest places", ["best labels", "components", "scores"], rows, [1])
    return [
        picture,
        Details("The largest places", [table]),
    ]


@section("graph", "Attribution graph")
def graph_section(graph: AttributionGraph) -> list[ReportBlock]:
    """Show which concepts contribute to which, up to the class."""
    images = f"{graph.images} image" + ("s" if graph.images != 1 else "")
    nodes = sorted(graph.nodes[1:], key=lambda node: -node.mean)
    rows = [
        (
            node.label,
            node.layer,
            str(len(node.components)),
            precise(node.mean),
            verdicts_text(node) or "-",
        )
        for node in nodes[:12]
    ]
    strongest = ", ".join(f"{row[0]} in {row[1]} ({row[3]})" for row in rows[:5])
    return [
        Paragraph(
            "Components are grouped by their labels; '?' has none. The bar in a box shows the "
            "verdicts of the audit on its components, by their relevance."
        ),
        svg_picture(
            graph.svg(),
            f"Attribution graph of '{graph.name}' over {images}. Strongest: {strongest}.",
            f"Columns are layers, with the class on the right. Boxes are components with the same "
            f"label, lines the relevance that flows between them. The graph shows "
            f"{100 * graph.overall:.0f} % of the relevance, averaged over the layers. {images}, "
            f"rules {graph.rules}, components with at least {precise(graph.minimum)}.",
            adapts=True,
        ),
        Details(
            "The strongest groups",
            [
                ReportTable(
                    "The strongest groups (mean share of the layer's relevance)",
                    ["label", "layer", "components", "share", "verdicts"],
                    rows,
                    [2, 3],
                )
            ],
        ),
    ]


@section("examples", "Examples of the most relevant components")
def examples_section(
    audit: Audit,
    database: Database,
    badges: Mapping[str, Badge],
    scores: Scores,
) -> list[ReportBlock]:
    """Show the most relevant components with many examples."""
    cards: list[ReportCard] = []
    records = audit.frame.head(DETAILED).to_dict("records")
    names = shown_names(database, [record["component"] for record in records])
    for record, name in zip(records, names, strict=True):
        measures = _measures(scores, record["component"])
        line = f"{precise(record['mean'])} of its layer's relevance on average"
        if measures:
            line += f", {measures}"
        cards.append(
            ReportCard(
                name,
                record["component"],
                badges.get(record["component"]),
                [line],
                strip(database, record["row"], 2 * STRIP),
            )
        )
    return [
        Paragraph(
            f"The samples with the largest {database.manifest.recipe.rank} of each component, "
            "cropped to the relevant region, strongest first. Regions below 2 % of the heatmap's "
            "maximum are darkened if the database has masks."
        ),
        Details(
            f"{2 * STRIP} examples of each of {len(cards)} components, with their files",
            [ReportCards(cards, files=True)],
        ),
    ]


def _measures(scores: Scores, name: str) -> str:
    """Return a component's scores as text."""
    component = Component.parse(name)
    frame = scores.frame
    row: Any = frame[
        (frame["layer"] == component.layer)
        & (frame["index"] == component.index)
        & (frame["sign"] == component.sign)
    ]
    return ", ".join(
        f"{measure} {value:.2f}"
        for measure in ("clarity", "redundancy", "polysemanticity")
        for value in row[measure]
        if np.isfinite(value)
    )


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
        f"{precise(row['mean'])} of its layer's relevance, at most {precise(row['max'])}; "
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
            (name, precise(mean), 100 * max(mean, 0.0) / largest, logit == target)
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
