"""The parts of a report that describe: identity, overview, map, components, graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.classes import class_name
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
from semlens.errors import SemlensError
from semlens.store.reader import Database
from semlens.types import Component

P = ParamSpec("P")
Part = TypeVar("Part")
STRIP = 8
"""Examples of a component."""
DETAILED = 6
"""Components that are shown with more examples."""
DRIVEN = 5
"""Classes of a component."""


@dataclass(frozen=True)
class SkippedSection:
    """A part that was not made, and why."""

    reason: str


def attempt(make: Callable[[], Part]) -> Part | SkippedSection:
    """Return a part, or the error that stands in its way."""
    try:
        return make()
    except SemlensError as error:
        return SkippedSection(str(error))


def section(
    key: str, title: str, *, flows: bool = False
) -> Callable[
    [Callable[Concatenate[Part, P], list[ReportBlock]]],
    Callable[Concatenate[Part | SkippedSection, P], Section],
]:
    """Make a section of a function that shows a part; without the part, it says why."""

    def decorate(
        show: Callable[Concatenate[Part, P], list[ReportBlock]],
    ) -> Callable[Concatenate[Part | SkippedSection, P], Section]:
        @functools.wraps(show)
        def make(found: Part | SkippedSection, *args: P.args, **kwargs: P.kwargs) -> Section:
            if isinstance(found, SkippedSection):
                return Section(key, title, missing=found.reason)
            return Section(key, title, show(found, *args, **kwargs), flows=flows)

        return make

    return decorate


def identity(
    database: Database,
    target: int,
    concepts: ConceptSet,
    settings: Mapping[str, Any],
    version: str,
) -> Section:
    """Say who the model, the data and the embedder are, and how the database was made."""
    manifest, relevance = database.manifest, database.manifest.relevance
    sources = {name: getattr(manifest, name) for name in ("model", "data", "embedder")}
    known = f"{len(manifest.classes)} classes" if manifest.classes else "classes without names"
    named = f"{class_name(database, target)} (logit {target}), "
    told = (
        f"rules {relevance.rules}, for the {_TARGETS[relevance.targets]}"
        if relevance is not None
        else "none was computed"
    )
    rows = [
        *((name, source.spec, source.fingerprint) for name, source in sources.items()),
        ("database", database.path.name, database.fingerprint),
        ("class", f"{named}{samples_of(database, target)} samples", ""),
        ("samples", f"{manifest.samples}, {manifest.unreadable} of them unreadable", ""),
        ("model's outputs", known, ""),
        ("relevance", told, ""),
        ("semlens", version, ""),
    ]
    listed = [
        (f"{_KINDS[kind]} concepts", ", ".join(c.name for c in part.concepts), "")
        for kind in ("valid", "spurious", "concept")
        if len(part := concepts.of_kind(kind))
    ]
    source = f", from: {concepts.source}" if concepts.source else ""
    blocks = [
        Facts("What was looked at, with SHA-256 fingerprints of weights and contents", rows),
        Facts(f"Concept set '{concepts.name}'{source}", listed),
        Values("Recipe of the database", _values(dict(manifest.recipe))),
        *([Values("Settings of the audit", _values(settings))] if settings else []),
    ]
    return Section("identity", "Model, data and settings", blocks)


_TARGETS = {"classes": "classes of the samples", "predictions": "model's predictions"}
_KINDS: Mapping[Kind, str] = {"valid": "valid", "spurious": "spurious", "concept": "other"}
_DEFAULTS = {"threshold": "against chance", "crop_threshold": "by the crop", "layers": "all"}


def _values(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), _DEFAULTS.get(name, "-") if value is None else _text(value))
        for name, value in settings.items()
    ]


def overview(database: Database, scores: Scores) -> Section:
    """Show the layers, and how interpretable their components are."""
    manifest = database.manifest
    parts = database.components
    layers = [
        (
            entry.name,
            entry.form,
            str(entry.rows),
            "both" if entry.rows > entry.channels else "+",
            entry.crop,
            str(int((parts["examples"].iloc[entry.first : entry.first + entry.rows] == 0).sum())),
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
                "How interpretable components are, mean per layer",
                ["layer", "clarity", "redundancy", "polysemanticity"],
                means,
                [1, 2, 3],
            ),
            Paragraph(
                "Clarity: how alike the examples of a component are (1: all the same; 0: they "
                "have nothing in common). Redundancy: similarity with the nearest other component "
                "of the layer (1: a twin). Polysemanticity: whether examples fall into two unlike "
                "groups (0: one meaning)."
            ),
        ],
        flows=True,
    )


@section("map", "Map of what the model knows", flows=True)
def map_section(found: ConceptMap, name: str) -> list[ReportBlock]:
    """Show where the components lie in semantic space."""
    named = found.clusters.to_dict("records")
    labels = [", ".join(row["labels"]) for row in named if row["labels"]]
    about = f" Clusters are about: {'; '.join(labels[:12])}." if labels else ""
    colour = f"relevance for '{name}'" if isinstance(found.colouring, Scale) else "layer"
    picture = figure_picture(
        found.plot(),
        f"Map of {len(found)} components in the plane. Colour: {colour}.{about}",
        f"Each point is a component; near ones have alike examples. Colour: {colour}.",
        points=len(found),
    )
    rows = [
        (
            ", ".join(row["labels"]) or "no label",
            str(row["size"]),
            ", ".join(f"{a:.3f}" for a in row["alignments"]),
        )
        for row in named[:12]
    ]
    return [
        picture,
        ReportTable("The largest clusters", ["best labels", "components", "alignments"], rows, [1]),
        Paragraph("Distances in the plane are a guide to the eye; labels are of cluster means."),
    ]


@section("unexpected", "Unexpected components")
def unexpected_section(found: Unexpected, shown: int, against: str) -> list[ReportBlock]:
    """Show what the class relies on and no concept describes, and what stands behind it."""
    blocks: list[ReportBlock] = [Paragraph(found.summary()), Paragraph(against)]
    largest = max([v for v in found.classes["mean"] if v > 0], default=1.0)
    cards = [_driving(found, row, largest) for row in found.frame.head(shown).to_dict("records")]
    if cards:
        blocks.append(ReportCards(cards, files=True))
    if len(found) > shown:
        blocks.append(Paragraph(f"{len(found) - shown} less relevant ones are not shown."))
    return blocks


@section("graph", "Attribution graph")
def graph_section(found: AttributionGraph) -> list[ReportBlock]:
    """Show which concepts feed which, down from the class."""
    images = f"{found.images} image" + ("s" if found.images != 1 else "")
    nodes = sorted(found.nodes[1:], key=lambda node: -node.mean)
    rows = [
        (node.label, node.layer, str(len(node.components)), percent(node.mean))
        for node in nodes[:12]
    ]
    strongest = ", ".join(f"{row[0]} in {row[1]} ({row[3]})" for row in rows[:5])
    return [
        Paragraph(
            "Components are grouped by the concept that the audit aligns them with, and where "
            "there is none by a general vocabulary; '?' has none at all."
        ),
        svg_picture(
            found.svg(),
            f"Attribution graph of '{found.name}' over {images}. Strongest: {strongest}.",
            f"Columns are layers, the class on the right. Boxes are components of one label, "
            f"lines what passes between them: they show {found.overall:.0%} of the "
            f"relevance, mean over the layers. {images}, rules {found.rules}, components of "
            f"{found.minimum:.1%} and more.",
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
    found: Audit, database: Database, badges: Mapping[str, Badge], scores: Scores
) -> list[ReportBlock]:
    """Show the most relevant components with many examples."""
    cards: list[ReportCard] = []
    for record in found.frame.head(DETAILED).to_dict("records"):
        measures = scores_of(scores, record["component"])
        told = f"{percent(record['mean'])} of its layer's relevance on average"
        if measures:
            told += f", {measures}"
        cards.append(
            ReportCard(
                record["component"],
                badges.get(record["component"]),
                [told],
                strip(database, record["row"], 2 * STRIP),
            )
        )
    return [
        Paragraph(
            "The samples on which each component is strongest, cut to where it reacts, "
            "strongest first. What lies under 2 % of its heatmap's maximum is darkened, "
            "where the database keeps a mask."
        ),
        ReportCards(cards, files=True),
    ]


def strip(database: Database, row: int, count: int = STRIP) -> list[Thumb]:
    """Return a component's strongest examples, masked."""
    if not database.manifest.recipe.thumbnails:
        return []
    pictures = example_pictures(database, row, count, mask=True)
    paths = [example.path for example in database.examples_of(row, count)]
    return [picture_thumb(one, path) for one, path in zip(pictures, paths, strict=True)]


def scores_of(scores: Scores, name: str) -> str:
    """Return a component's measures in words."""
    part = Component.parse(name)
    frame = scores.frame
    mine: Any = frame[
        (frame["layer"] == part.layer)
        & (frame["index"] == part.index)
        & (frame["sign"] == part.sign)
    ]
    return ", ".join(
        f"{measure} {value:.2f}"
        for measure in ("clarity", "redundancy", "polysemanticity")
        for value in mine[measure]
        if np.isfinite(value)
    )


def samples_of(database: Database, target: int) -> int:
    """Return how many readable samples a class has."""
    table = database.samples
    mine = (table["logit"].astype("Float64") == target).fillna(False).to_numpy(bool)
    return int((mine & table["error"].isna().to_numpy()).sum())


def _driving(found: Unexpected, row: dict[str, Any], largest: float) -> ReportCard:
    mine: Any = found.classes[found.classes["component"] == row["component"]]
    first = mine[mine["mean"] > 0].head(DRIVEN)
    if found.target not in set(first["logit"]):
        first = pd.concat([first.head(DRIVEN - 1), mine[mine["logit"] == found.target]])
    near = ", ".join(
        f"{name} ({value:+.3f})"
        for name, value in zip(row["nearest"], row["alignments"], strict=True)
    )
    lines = [
        f"{percent(row['mean'])} of its layer's relevance on average, {percent(row['max'])} on "
        f"the sample where it is largest. Clarity {row['clarity']:.2f}.",
        f"Nearest concepts all the same: {near}.",
        _origin(row, found.name),
    ]
    (number,) = found.database.rows_of(row["component"])
    return ReportCard(
        row["component"],
        Badge("unexpected", "unexpected"),
        lines,
        strip(found.database, number),
        [
            (name, percent(mean), 100 * max(mean, 0.0) / largest, logit == found.target)
            for name, mean, logit in zip(first["class"], first["mean"], first["logit"], strict=True)
        ],
    )


def _origin(row: Mapping[str, Any], name: str) -> str:
    told = f"Of its {row['examples']} examples {row['of_class']} are of '{name}'"
    if row["examples_show"].endswith(f"'{name}'") or not row["examples_show"]:
        return f"{told}."
    return f"{told}; most are of another class: {row['examples_show']}."


def percent(value: float | None) -> str:
    """Return a share in words; a dash where there is none."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.1f} %"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):  # the thresholds of the two sides
        valid, spurious = ("against chance" if one is None else _text(one) for one in value)
        return f"valid {valid}, spurious {spurious}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
