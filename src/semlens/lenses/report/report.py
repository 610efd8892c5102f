"""The report on a class: one HTML file with audit, map, graph, tests and limits."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from semlens.data.artefact import Artefacts, as_artefacts
from semlens.draw.report_page import ReportPage
from semlens.lens import lens
from semlens.lenses.audit.audit import audit_class
from semlens.lenses.audit.audit_records import (
    LEVEL,
    AuditRecord,
    AuditSettings,
    Level,
    Seed,
    Threshold,
)
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.model_test import Spurious
from semlens.lenses.audit.model_test import model_test as run_model_test
from semlens.lenses.audit.saved_audits import reviewed_audit
from semlens.lenses.class_relevance import MINIMUM, Minimum
from semlens.lenses.classes import class_name
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.contrast.contrast import Contrast
from semlens.lenses.contrast.contrast import contrast as run_contrast
from semlens.lenses.correct.artefact_sensitivity import Sensitivity
from semlens.lenses.correct.before_after import BeforeAfter
from semlens.lenses.describe.concept_map import ConceptMap
from semlens.lenses.describe.unexpected import Unexpected
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.report.arguments import parse_date, saved_record
from semlens.lenses.report.audit_sections import (
    audit_section,
    badges,
    review_section,
)
from semlens.lenses.report.concept_sections import examples_section, graph_section, map_section
from semlens.lenses.report.contents import (
    STEPS,
    class_graph,
    class_map,
    class_repair,
    class_unexpected,
    content_of,
    corrected_together,
    on_request,
)
from semlens.lenses.report.contrast_section import contrast_section
from semlens.lenses.report.correction_sections import (
    ModelTestLike,
    correction_section,
    correction_sentence,
    model_test_section,
    read_model_test,
    read_sensitivity,
    repair_section,
    test_sentence,
    test_values,
)
from semlens.lenses.report.first_page import evidence, verdict
from semlens.lenses.report.identity_sections import identity, overview
from semlens.lenses.report.limits import limits, reproduce
from semlens.lenses.report.report_result import Report
from semlens.lenses.report.section_parts import SkippedSection
from semlens.lenses.report.swap_sections import (
    border_section,
    colour_section,
    region_section,
    swap_sentence,
)
from semlens.lenses.report.unexpected_section import unexpected_section
from semlens.lenses.resolve_concepts import ClassConcepts, OwnTarget, class_and_concepts
from semlens.lenses.scores import scores as compute_scores
from semlens.lenses.swap.border_swap import BorderSwap
from semlens.lenses.swap.border_swap import border_swap as run_border_swap
from semlens.lenses.swap.colour_swap import ColourSwap
from semlens.lenses.swap.colour_swap import colour_swap as run_colour_swap
from semlens.lenses.swap.experiments import experiments
from semlens.lenses.swap.kept_swaps import kept_swap
from semlens.lenses.swap.region_swap import RegionSwap
from semlens.lenses.swap.region_swap import region_swap as run_region_swap
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers
from semlens.version import __version__

SHOWN = 12
"""Components that a section shows with examples."""


@lens("model", "images", "embedder", group="Audit", command="", local=True)
def report(
    database: Database,
    target: OwnTarget = None,
    concepts: ClassConcepts = None,
    *,
    saved: Annotated[
        int | AuditRecord | None,
        setting("Number of a saved audit, for its class, lists and settings."),
    ] = None,
    layers: Layers = None,
    minimum: Minimum = MINIMUM,
    level: Level = LEVEL,
    threshold: Threshold = None,
    seed: Seed = 0,
    shown: Annotated[int, setting("Components per section with examples.", ge=1)] = SHOWN,
    concept_map: Annotated[
        bool | ConceptMap | SkippedSection,
        setting("Compute a concept map; takes minutes for 100,000 components."),
    ] = True,
    graph: Annotated[
        bool | AttributionGraph | SkippedSection, setting("Compute an attribution graph.")
    ] = True,
    before_after: Annotated[
        bool | BeforeAfter | SkippedSection,
        setting(
            "Run the model without spurious components, found under an alarm or marked by you."
        ),
    ] = True,
    artefacts: Artefacts = (),
    spurious: Spurious = None,
    model_test: Annotated[
        ModelTestLike | SkippedSection | str | Path | None,
        setting("Existing model test: .json of 'semlens classes model-test --save'."),
    ] = None,
    border_swap: Annotated[
        bool | BorderSwap | SkippedSection, setting("Run a border swap of the class.")
    ] = False,
    region_swap: Annotated[
        bool | RegionSwap | SkippedSection, setting("Run a region swap of the class.")
    ] = False,
    colour_swap: Annotated[
        bool | ColourSwap | SkippedSection, setting("Run a colour swap of the class.")
    ] = False,
    contrast: Annotated[
        bool | Contrast | SkippedSection,
        setting("Compare the errors on the class with its correct predictions."),
    ] = False,
    sensitivity: Annotated[
        Sensitivity | SkippedSection | str | Path | None,
        setting("Effect of a correction: .json of 'semlens correct sensitivity --save'."),
    ] = None,
    date: Annotated[
        datetime.date | str | None, setting("Date of the report: YYYY-MM-DD [today].")
    ] = None,
    audit: Audit | SkippedSection | None = None,
    unexpected: Unexpected | SkippedSection | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Write a report on a class: audit, concept map, components, graph, tests and limits.

    Results that are not passed are computed. A section whose result is excluded or fails shows
    the reason instead.

    Parameters
    ----------
    target, concepts, layers, minimum, level, threshold, seed
        As for ``db.audit``.
    saved
        Number of a saved audit to use instead; its reviews and notes are shown as well.
    shown
        Number of components that a section shows with examples.
    concept_map, graph, before_after
        Whether to compute them, or an existing result.
    artefacts, spurious
        Features for the model test, as for ``db.model_test``.
    model_test, sensitivity
        Existing results, or their files.
    border_swap, region_swap, colour_swap, contrast
        Whether to run them, or an existing result. They run the model on images.
    date
        Date of the report; today by default.
    audit, unexpected
        Existing results.
    command
        Command line of the report, for its last section.

    Raises
    ------
    RelevanceError
        If there is no such class.
    ConceptError
        If there is no concept set, or none for the class.
    DataError
        If a file has another format.
    """
    settings = AuditSettings(
        layers=layers, minimum=minimum, level=level, threshold=threshold, seed=seed
    )
    record = None if saved is None else saved_record(database, saved, target, concepts)
    if record is not None:
        target, concepts = record.target, replace(record.concepts, target=None)
        settings = record.settings
    index, concept_set = class_and_concepts(database, target, concepts)
    name, layers = class_name(database, index), settings.layers
    inserted = as_artefacts(artefacts)
    date = datetime.date.today() if date is None else parse_date(date)
    database.rows(layers)  # raises for an unknown layer before anything is computed
    if isinstance(sensitivity, str | Path):
        sensitivity = read_sensitivity(Path(sensitivity))
    if isinstance(model_test, str | Path):
        model_test = read_model_test(Path(model_test), name)
    if model_test is None and not inserted and not spurious:
        model_test = SkippedSection(
            "No model test was requested. It needs an artefact to insert, or images of spurious "
            "features only."
        )
    no_correction = SkippedSection(
        "No correction was given. It needs accuracies of the original and a corrected model with "
        "an artefact."
    )
    audit = content_of(
        "audit", 0, audit, lambda: audit_class(database, index, concept_set, settings)
    )
    unexpected = content_of(
        "unexpected", 1, unexpected, lambda: class_unexpected(database, index, concept_set, audit)
    )
    map_content = content_of("map", 2, concept_map, lambda: class_map(database, index))
    graph_content = content_of(
        "graph", 3, graph, lambda: class_graph(database, index, audit, layers)
    )
    borders = on_request(
        "border swap", "border-swap", 4, border_swap, lambda: run_border_swap(database, index),
        lambda: kept_swap(database, BorderSwap),
    )  # fmt: skip
    regions = on_request(
        "region swap", "region-swap", 5, region_swap, lambda: run_region_swap(database, index),
        lambda: kept_swap(database, RegionSwap),
    )  # fmt: skip
    colours = on_request(
        "colour swap", "colour-swap", 6, colour_swap, lambda: run_colour_swap(database, index),
        lambda: kept_swap(database, ColourSwap),
    )  # fmt: skip
    borders, regions, colours = corrected_together([borders, regions, colours])
    swaps = [swap for swap in (borders, regions, colours) if not isinstance(swap, SkippedSection)]
    judged = audit
    if not isinstance(audit, SkippedSection):
        judged = replace(audit, experiments=experiments(swaps).get(index, ()))
    errors = on_request(
        "contrast", "contrast", 7, contrast,
        lambda: run_contrast(database, errors=index, layers=layers),
    )  # fmt: skip
    test = content_of(
        "test", 8, model_test,
        lambda: run_model_test(database, index, spurious=spurious, artefacts=inserted, seed=seed),
    )  # fmt: skip
    repair = content_of("repair", 9, before_after, lambda: class_repair(database, judged, record))
    if record is not None and not isinstance(judged, SkippedSection):
        judged = reviewed_audit(judged, record.reviews)
    scores = compute_scores(database)
    audit_settings = {} if isinstance(judged, SkippedSection) else judged.settings
    body = [
        audit_section(judged, database, shown),
        *([] if record is None else [review_section(record, judged, database)]),
        unexpected_section(unexpected, shown, _criterion(judged)),
        graph_section(graph_content),
        map_section(map_content, name),
        examples_section(judged, database, badges(judged), scores),
        repair_section(repair),
        model_test_section(test),
        correction_section(sensitivity or no_correction),
        border_section(borders, name),
        region_section(regions, name),
        colour_section(colours, name),
        contrast_section(errors, shown),
        overview(database, scores),
        identity(database, index, concept_set, audit_settings, __version__),
    ]
    missing = [section for section in body if section.missing]
    correction = None if isinstance(sensitivity, SkippedSection) else sensitivity
    values = None if isinstance(test, SkippedSection) else test_values(test)
    closing = [
        limits(database, index, concept_set, judged, values, correction, missing),
        reproduce(database, command or _command(database, name, concept_set, record), __version__),
    ]
    badge, sentence = verdict(judged)
    more = [
        *(swap_sentence(swap, name) for swap in swaps),
        *([] if values is None else [test_sentence(values)]),
        *([] if correction is None else [correction_sentence(correction)]),
    ]
    page = ReportPage(
        f"Report on '{name}' in {database.manifest.model.spec}",
        badge,
        sentence,
        more,
        evidence(judged, repair, database),
        f"Created on {date.isoformat()} with semlens {__version__}.",
        (*body, *closing),
    )
    report_progress("report", STEPS, STEPS)
    return Report(index, name, page, None if isinstance(judged, SkippedSection) else judged)


def _criterion(audit: Audit | SkippedSection) -> str:
    if isinstance(audit, SkippedSection):
        return "A component is unexpected if no concept describes it above noise."
    return (
        "A component is unexpected if neither a valid nor a spurious concept aligns with it above "
        "the threshold of the audit."
    )


def _command(
    database: Database, name: str, concepts: ConceptSet, record: AuditRecord | None
) -> Sequence[str]:
    words = ["semlens", "report", database.name]
    if record is not None:
        return [*words, "--saved", str(record.id)]
    return [*words, "--target", name, "--concepts", concepts.name]
