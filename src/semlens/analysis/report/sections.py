"""Descriptive sections of a report: identity, overview, map, unexpected, graph, examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.classes import class_name, true_classes
from semlens.analysis.concepts import ConceptSet, Kind
from semlens.analysis.describe.concept_map import ConceptMap
from semlens.analysis.describe.unexpected import Unexpected
from semlens.analysis.graph.attribution_graph import AttributionGraph
from semlens.analysis.scores import Scores
from semlens.draw.example_sheet import example_pictures
from semlens.draw.map_plot import Scale
from semlens.draw.report_page import (
    Badge,
    Facts,
    Paragraph,
    ReportBlock,
    ReportCard,
    ReportCards,
    ReportTable,
    Section,
    Thumb,
    Values,
    figure_picture,
    picture_thumb,
    svg_picture,
)
from semlens.store.reader import Database
from semlens.types import Component

P = ParamSpec("P")
Content = TypeVar("Content")
"""What a section shows: an audit, a map, a graph, ..."""
STRIP = 8
"""Examples shown per component."""
DETAILED = 6
"""Components shown with more examples."""
TOP_CLASSES = 5
"""Classes shown per component."""


@dataclass(frozen=True)
class SkippedSection:
    """Placeholder for content that is missing, with the reason."""

    reason: str


def section(
    key: str, title: str, *, flows: bool = False
) -> Callable[
    [Callable[Concatenate[Content, P], list[ReportBlock]]],
    Callable[Concatenate[Content | SkippedSection, P], Section],
]:
    """Turn a function that shows content into a section; missing content shows the reason."""

    def decorate(
        show: Callable[Concatenate[Content, P], list[ReportBlock]],
    ) -> Callable[Concatenate[Content | SkippedSection, P], Section]:
        @functools.wraps(show)
        def make(content: Content | SkippedSection, *args: P.args, **kwargs: P.kwargs) -> Section:
            if isinstance(content, SkippedSection):
                return Section(key, title, missing=content.reason)
            return Section(key, title, show(content, *args, **kwargs), flows=flows)

        return make

    return decorate


def identity(
    database: Database,
    target: int,
    concepts: ConceptSet,
    settings: Mapping[str, Any],
    version: str,
) -> Section:
    """Show the model, the data, the embedder and the settings, with fingerprints."""
    manifest, relevance = database.manifest, database.manifest.relevance
    sources = {name: getattr(manifest, name) for name in ("model", "data", "embedder")}
    classes = f"{len(manifest.classes)} classes" if manifest.classes else "classes without names"
    name = f"{class_name(database, target)} (logit {target})"
    relevance_text = (
        f"rules {relevance.rules}, for the {_TARGETS[relevance.targets]}"
        if relevance is not None
        else "not computed"
    )
    rows = [
        *((name, source.spec, source.fingerprint) for name, source in sources.items()),
        ("database", database.path.name, database.fingerprint),
        ("class", f"{name}, {sample_count(database, target)} samples", ""),
        ("samples", f"{manifest.samples}, {manifest.unreadable} of them unreadable", ""),
        ("model outputs", classes, ""),
        ("relevance", relevance_text, ""),
        ("semlens", version, ""),
    ]
    concept_rows = [
        (f"{_KINDS[kind]} concepts", ", ".join(c.name for c in of_kind.concepts), "")
        for kind in ("valid", "spurious", "concept")
        if len(of_kind := concepts.of_kind(kind))
    ]
    source = f", from: {concepts.source}" if concepts.source else ""
    blocks = [
        Facts("Inputs, with SHA-256 fingerprints of weights and contents", rows),
        Facts(f"Concept set '{concepts.name}'{source}", concept_rows),
        Values("Recipe of the database", _values(dict(manifest.recipe))),
        *([Values("Settings of the audit", _values(settings))] if settings else []),
    ]
    return Section("identity", "Model, data and settings", blocks)


_TARGETS = {"classes": "classes of the samples", "predictions": "model's predictions"}
_KINDS: Mapping[Kind, str] = {"valid": "valid", "spurious": "spurious", "concept": "other"}
_DEFAULTS = {"threshold": "calibrated", "crop_threshold": "by the crop", "layers": "all"}


def _values(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), _DEFAULTS.get(name, "-") if value is None else _text(value))
        for name, value in settings.items()
    ]


def overview(database: Database, scores: Scores) -> Section:
    """Show the layers and the interpretability of their components."""
    manifest = database.manifest
    components = database.components
    layers = [
        (
            entry.name,
            entry.form,
            str(entry.rows),
            "both" if entry.rows > entry.channels else "+",
            entry.crop,
            str(int((components["examples"].iloc[entry.first :][: entry.rows] == 0).sum())),
            str(entry.not_finite),
        )
        for entry in manifest.layers
    ]
    means = [
        (row["layer"], *(f"{row[m]:.3f}" for m in ("clarity", "redundancy", "polysemanticity")))
        for row in scores.per_layer().to_dict("records")
    ]
    return Section(
        "overview",
        "Overview",
        [
            ReportTable(
                f"{manifest.rows} components",
                ["layer", "form", "components", "signs", "crop", "no examples", "not finite"],
                layers,
                [2, 5, 6],
            ),
            ReportTable(
                "Interpretability of components, mean per layer",
                ["layer", "clarity", "redundancy", "polysemanticity"],
                means,
                [1, 2, 3],
            ),
            Paragraph(
                "Clarity: how similar the examples of a component are (1: identical; 0: nothing "
                "in common). Redundancy: similarity with the nearest other component of the layer "
                "(1: a duplicate). Polysemanticity: whether the examples form two dissimilar "
                "groups (0: one meaning)."
            ),
        ],
        flows=True,
    )


@section("map", "Concept map", flows=True)
def map_section(concept_map: ConceptMap, name: str) -> list[ReportBlock]:
    """Show the components as points in semantic space."""
    clusters = concept_map.clusters.to_dict("records")
    labels = [", ".join(row["labels"]) for row in clusters if row["labels"]]
    about = f" Clusters are about: {'; '.join(labels[:12])}." if labels else ""
    colour = f"relevance for '{name}'" if isinstance(concept_map.colouring, Scale) else "layer"
    picture = figure_picture(
        concept_map.plot(),
        f"Map of {len(concept_map)} components in the plane. Colour: {colour}.{about}",
        f"Each point is a component; close points have similar examples. Colour: {colour}.",
        points=len(concept_map),
    )
    rows = [
        (
            ", ".join(row["labels"]) or "no label",
            str(row["size"]),
            ", ".join(f"{a:.3f}" for a in row["alignments"]),
        )
        for row in clusters[:12]
    ]
    return [
        picture,
        ReportTable("The largest clusters", ["best labels", "components", "alignments"], rows, [1]),
        Paragraph("Distances in the plane are approximate; labels describe cluster means."),
    ]


@section("unexpected", "Unexpected components")
def unexpected_section(unexpected: Unexpected, shown: int, criterion: str) -> list[ReportBlock]:
    """Show the components that the class relies on and no concept describes."""
    blocks: list[ReportBlock] = [Paragraph(unexpected.summary()), Paragraph(criterion)]
    largest = max([v for v in unexpected.classes["mean"] if v > 0], default=1.0)
    rows = unexpected.frame.head(shown).to_dict("records")
    cards = [_unexpected_card(unexpected, row, largest) for row in rows]
    if cards:
        blocks.append(ReportCards(cards, files=True))
    if len(unexpected) > shown:
        blocks.append(
            Paragraph(f"{len(unexpected) - shown} less relevant components are not shown.")
        )
    return blocks


@section("graph", "Attribution graph")
def graph_section(graph: AttributionGraph) -> list[ReportBlock]:
    """Show which concepts contribute to which, up to the class."""
    images = f"{graph.images} image" + ("s" if graph.images != 1 else "")
    nodes = sorted(graph.nodes[1:], key=lambda node: -node.mean)
    rows = [
        (node.label, node.layer, str(len(node.components)), percent(node.mean))
        for node in nodes[:12]
    ]
    strongest = ", ".join(f"{row[0]} in {row[1]} ({row[3]})" for row in rows[:5])
    return [
        Paragraph(
            "Components are grouped by the concept that the audit aligns them with or, if there is "
            "none, by the label from a general vocabulary; '?' has no label."
        ),
        svg_picture(
            graph.svg(),
            f"Attribution graph of '{graph.name}' over {images}. Strongest: {strongest}.",
            f"Columns are layers, with the class on the right. Boxes are components with the same "
            f"label, lines the relevance that flows between them. The graph shows "
            f"{graph.overall:.0%} of the relevance, averaged over the layers. {images}, rules "
            f"{graph.rules}, components with at least {graph.minimum:.1%}.",
            adapts=True,
        ),
        ReportTable(
            "The strongest groups (mean share of the layer's relevance)",
            ["label", "layer", "components", "share"],
            rows,
            [2, 3],
        ),
    ]


@section("examples", "Examples of the most relevant components")
def examples_section(
    audit: Audit, database: Database, badges: Mapping[str, Badge], scores: Scores
) -> list[ReportBlock]:
    """Show the most relevant components with many examples."""
    cards: list[ReportCard] = []
    for record in audit.frame.head(DETAILED).to_dict("records"):
        measures = _measures(scores, record["component"])
        line = f"{percent(record['mean'])} of its layer's relevance on average"
        if measures:
            line += f", {measures}"
        cards.append(
            ReportCard(
                record["component"],
                badges.get(record["component"]),
                [line],
                strip(database, record["row"], 2 * STRIP),
            )
        )
    return [
        Paragraph(
            "The samples that activate each component most, cropped to the relevant region, "
            "strongest first. Regions below 2 % of the heatmap's maximum are darkened if the "
            "database has masks."
        ),
        ReportCards(cards, files=True),
    ]


def strip(database: Database, row: int, count: int = STRIP) -> list[Thumb]:
    """Return thumbnails of a component's strongest examples, masked."""
    if not database.manifest.recipe.thumbnails:
        return []
    images = example_pictures(database, row, count, mask=True)
    paths = [example.path for example in database.examples_of(row, count)]
    return [picture_thumb(image, path) for image, path in zip(images, paths, strict=True)]


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


def sample_count(database: Database, target: int) -> int:
    """Return the number of readable samples of a class."""
    return int((true_classes(database) == target).sum())


def _unexpected_card(unexpected: Unexpected, row: dict[str, Any], largest: float) -> ReportCard:
    """Return a component's card, with the classes that it is most relevant for."""
    target, table = unexpected.target, unexpected.classes
    classes: Any = table[table["component"] == row["component"]]
    top = classes[classes["mean"] > 0].head(TOP_CLASSES)
    if target not in set(top["logit"]):  # the class of the report is always shown
        top = pd.concat([top.head(TOP_CLASSES - 1), classes[classes["logit"] == target]])
    near = ", ".join(
        f"{name} ({value:+.3f})"
        for name, value in zip(row["nearest"], row["alignments"], strict=True)
    )
    lines = [
        f"{percent(row['mean'])} of its layer's relevance on average, {percent(row['max'])} on "
        f"the sample where it is largest. Clarity {row['clarity']:.2f}.",
        f"Nearest concepts nevertheless: {near}.",
        _origin(row, unexpected.name),
    ]
    (component_row,) = unexpected.database.rows_of(row["component"])
    return ReportCard(
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
    text = f"Of its {row['examples']} examples, {row['of_class']} are of '{name}'"
    if row["examples_show"].endswith(f"'{name}'") or not row["examples_show"]:
        return f"{text}."
    return f"{text}; most are of another class: {row['examples_show']}."


def percent(value: float | None) -> str:
    """Return a share as text; a dash if it is missing."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.1f} %"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):  # the thresholds of the two sides
        valid, spurious = ("calibrated" if one is None else _text(one) for one in value)
        return f"valid {valid}, spurious {spurious}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
