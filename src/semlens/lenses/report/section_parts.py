"""What the sections of a report show, computed or given, and why it is missing."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from semlens.draw.example_sheet import example_pictures
from semlens.draw.report_page import (
    ReportBlock,
    Section,
    Thumb,
    picture_thumb,
)
from semlens.errors import DataError, RecipeError, SemlensError
from semlens.lenses.audit.audit_records import AuditRecord
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.correct.ablation_preview import components_to_remove
from semlens.lenses.correct.before_after import BeforeAfter, before_after
from semlens.lenses.database_targets import class_target
from semlens.lenses.describe.concept_map import ConceptMap, concept_map
from semlens.lenses.describe.unexpected import Unexpected, unexpected
from semlens.lenses.graph.attribution_graph import attribution_graph
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.store.reader import Database
from semlens.types import Layers

P = ParamSpec("P")
Content = TypeVar("Content")
"""What a section shows: an audit, a map, a graph, ..."""
STRIP = 8
"""Examples shown per component."""


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


def strip(database: Database, row: int, count: int = STRIP) -> list[Thumb]:
    """Return thumbnails of a component's strongest examples, masked."""
    if not database.manifest.recipe.thumbnails:
        return []
    images = example_pictures(database, row, count, mask=True)
    paths = [example.path for example in database.examples_of(row, count)]
    return [picture_thumb(image, path) for image, path in zip(images, paths, strict=True)]


def content_of(
    name: str, content: Content | SkippedSection | bool | None, compute: Callable[[], Content]
) -> Content | SkippedSection:
    """Return existing content, or compute it unless it is False; errors skip the section."""
    if content is False:
        return SkippedSection(f"The {name} was not requested.")
    if content is not None and content is not True:
        return content
    try:
        return compute()
    except SemlensError as error:
        return SkippedSection(str(error))


def class_graph(
    database: Database, target: int, audit: Audit | SkippedSection, layers: Layers
) -> AttributionGraph:
    """Compute the graph of named groups, with the verdicts of the audit."""
    verdicts: bool | dict[str, str] = False
    if not isinstance(audit, SkippedSection):
        verdicts = dict(zip(audit.frame["component"], audit.frame["verdict"], strict=True))
    return attribution_graph(
        database, class_target(database, target), layers=layers, verdicts=verdicts
    )


def class_map(database: Database, target: int) -> ConceptMap:
    """Return the map, coloured by relevance if the database has it."""
    result = concept_map(database)
    has_relevance = database.manifest.relevance is not None
    return result.coloured("relevance", target) if has_relevance else result


def class_repair(
    database: Database, audit: Audit | SkippedSection, record: AuditRecord | None
) -> BeforeAfter:
    """Run the model without what the audit and a person call spurious.

    Raises
    ------
    DataError
        If there is nothing of the kind.
    """
    if isinstance(audit, SkippedSection):
        raise DataError(
            "There is no audit, so nothing to repair.", "Expected an audit.", audit.reason
        )
    reviews = {} if record is None else record.reviews
    chosen = components_to_remove(database, audit, reviews)
    return before_after(database, audit.target, chosen)


def class_unexpected(
    database: Database, target: int, concepts: ConceptSet, audit: Audit | SkippedSection
) -> Unexpected:
    """Return the audit's unexpected components; without one, those not above noise."""
    if isinstance(audit, SkippedSection):
        return unexpected(database, target, concepts)
    audited_layers = set(audit.frame["layer"])
    return unexpected(
        database,
        target,
        concepts,
        layers=[name for name in database.layers if name in audited_layers],
        minimum=audit.settings["minimum"],
        components=audit.unexpected,
    )


def parse_date(date: datetime.date | str) -> datetime.date:
    """Return a date from ``YYYY-MM-DD``.

    Raises
    ------
    RecipeError
        If it is not a date.
    """
    try:
        return datetime.date.fromisoformat(str(date))
    except ValueError as error:
        raise RecipeError(
            f"'{date}' is not a valid date.", "Expected YYYY-MM-DD.", "Correct it."
        ) from error
