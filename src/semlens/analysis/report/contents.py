"""The contents of a report's sections: an existing result, a new one, or why there is none."""

from __future__ import annotations

from collections.abc import Callable

from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.describe.concept_map import ConceptMap, concept_map
from semlens.analysis.describe.unexpected import Unexpected, unexpected
from semlens.analysis.graph.attribution_graph import AttributionGraph, attribution_graph
from semlens.analysis.label import label
from semlens.analysis.report.correction_sections import graph_labels
from semlens.analysis.report.sections import Content, SkippedSection
from semlens.errors import SemlensError
from semlens.progress import report_progress
from semlens.store.reader import Database
from semlens.types import Layers

STEPS = 7
"""Slow steps of a report."""


def content_of(
    name: str,
    done: int,
    content: Content | SkippedSection | bool | None,
    compute: Callable[[], Content],
) -> Content | SkippedSection:
    """Return existing content, or compute it unless it is False; errors skip the section."""
    report_progress("report", done, STEPS)
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
    """Compute the graph, labelled by the audit's concepts and a general vocabulary."""
    vocabulary = label(database, layers=layers) if database.embedder.has_text else None
    components = [database.component(int(row)) for row in database.rows(layers)]
    audited = None if isinstance(audit, SkippedSection) else audit
    labels = graph_labels(components, audited, vocabulary)
    return attribution_graph(database, target, labels, layers=layers)


def class_map(database: Database, target: int) -> ConceptMap:
    """Return the map, coloured by relevance if the database has it."""
    result = concept_map(database)
    has_relevance = database.manifest.relevance is not None
    return result.coloured("relevance", target) if has_relevance else result


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
