"""The contents of a report's sections: an existing result, a new one, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from semlens.errors import DataError, SemlensError
from semlens.lenses.audit.audit_records import AuditRecord
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.correct.before_after import BeforeAfter, before_after
from semlens.lenses.correct.repair_selection import components_to_remove
from semlens.lenses.describe.concept_map import ConceptMap, concept_map
from semlens.lenses.describe.unexpected import Unexpected, unexpected
from semlens.lenses.graph.attribution_graph import attribution_graph
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.report.section_parts import Content, SkippedSection
from semlens.lenses.swap.experiments import corrected
from semlens.lenses.swap.swap_result import Swap
from semlens.progress import report_progress
from semlens.store.reader import Database
from semlens.types import Layers

STEPS = 10
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


def on_request(
    name: str,
    option: str,
    done: int,
    content: Content | SkippedSection | bool,
    compute: Callable[[], Content],
    kept: Callable[[], Content | None] = lambda: None,
) -> Content | SkippedSection:
    """Return the content of a section that runs the model, which is made on request only.

    Parameters
    ----------
    option
        The argument that requests it, for the reason.
    kept
        Returns what the database keeps of it, which needs no request.
    """
    if content is False:
        content = kept() or False
    if content is False:
        content = SkippedSection(
            f"No {name} was requested. It runs the model on images of the database: --{option}, or "
            f"{option.replace('-', '_')}=True in Python."
        )
    return content_of(name, done, content, compute)


def class_graph(
    database: Database, target: int, audit: Audit | SkippedSection, layers: Layers
) -> AttributionGraph:
    """Compute the graph of named groups, with the verdicts of the audit."""
    verdicts: bool | dict[str, str] = False
    if not isinstance(audit, SkippedSection):
        verdicts = dict(zip(audit.frame["component"], audit.frame["verdict"], strict=True))
    return attribution_graph(database, target, layers=layers, verdicts=verdicts)


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


def corrected_together(contents: Sequence[Content | SkippedSection]) -> list[Any]:
    """Return the swaps of a report with p-values that are corrected for all of them."""
    swaps = [one for one in contents if isinstance(one, Swap)]
    done = iter(corrected(swaps))
    return [next(done) if isinstance(one, Swap) else one for one in contents]


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
