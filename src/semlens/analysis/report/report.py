"""The report on a class: one HTML file with audit, map, graph, tests and limits."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from semlens.analysis.audit.audit import LEVEL, Level, Seed, Threshold
from semlens.analysis.audit.audit import audit as run_audit
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.model_test import Spurious
from semlens.analysis.audit.model_test import model_test as run_model_test
from semlens.analysis.audit.saved_audits import AuditRecord, saved_audits
from semlens.analysis.class_relevance import MINIMUM, Minimum
from semlens.analysis.classes import class_name
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.contrast.contrast import Contrast
from semlens.analysis.contrast.contrast import contrast as run_contrast
from semlens.analysis.correct.artefact_sensitivity import Sensitivity
from semlens.analysis.describe.concept_map import ConceptMap
from semlens.analysis.describe.unexpected import Unexpected
from semlens.analysis.graph.attribution_graph import AttributionGraph
from semlens.analysis.report.audit_sections import audit_section, badges, review_section, verdict
from semlens.analysis.report.contents import (
    STEPS,
    class_graph,
    class_map,
    class_unexpected,
    content_of,
)
from semlens.analysis.report.correction_sections import (
    ModelTestLike,
    correction_section,
    correction_sentence,
    model_test_section,
    read_model_test,
    read_sensitivity,
    test_sentence,
    test_values,
)
from semlens.analysis.report.image_sections import (
    border_section,
    border_sentence,
    contrast_section,
)
from semlens.analysis.report.limits import limits, reproduce
from semlens.analysis.report.report_result import Report
from semlens.analysis.report.sections import (
    SkippedSection,
    examples_section,
    graph_section,
    identity,
    map_section,
    overview,
    unexpected_section,
)
from semlens.analysis.resolve_concepts import ClassConcepts, OwnTarget, class_and_concepts
from semlens.analysis.scores import scores as compute_scores
from semlens.analysis.swap.border_swap import BorderSwap
from semlens.analysis.swap.border_swap import border_swap as run_border_swap
from semlens.data.artefact import Artefacts, as_artefacts
from semlens.draw.report_page import ReportPage
from semlens.errors import RecipeError
from semlens.progress import report_progress
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers
from semlens.version import __version__

SHOWN = 12
"""Components that a section shows with examples."""


@question("model", "images", "embedder")
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
    artefacts: Artefacts = (),
    spurious: Spurious = None,
    model_test: Annotated[
        ModelTestLike | SkippedSection | str | Path | None,
        setting("Existing model test: .json of 'semlens test --save'."),
    ] = None,
    border_swap: Annotated[
        bool | BorderSwap | SkippedSection, setting("Run a border swap of the class.")
    ] = False,
    contrast: Annotated[
        bool | Contrast | SkippedSection,
        setting("Compare the errors on the class with its correct predictions."),
    ] = False,
    sensitivity: Annotated[
        Sensitivity | SkippedSection | str | Path | None,
        setting("Effect of a correction: .json of 'semlens evaluate --save'."),
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
        As for :func:`semlens.audit`.
    saved
        Number of a saved audit to use instead; its reviews and notes are shown as well.
    shown
        Number of components that a section shows with examples.
    concept_map, graph
        Whether to compute them, or an existing result.
    artefacts, spurious
        Features for the model test, as for :func:`semlens.model_test`.
    model_test, sensitivity
        Existing results, or their files.
    border_swap, contrast
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
    settings: dict[str, Any] = {
        "layers": layers, "minimum": minimum, "level": level, "threshold": threshold, "seed": seed,
    }  # fmt: skip
    record = None if saved is None else _saved_record(database, saved, target, concepts)
    if record is not None:
        target, concepts = record.target, replace(record.concepts, target=None)
        settings = record.settings.as_arguments()
    index, concept_set = class_and_concepts(database, target, concepts)
    name, layers = class_name(database, index), settings["layers"]
    inserted = as_artefacts(artefacts)
    date = datetime.date.today() if date is None else _parse_date(date)
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
    runs_model = "It runs the model on images of the database."
    if border_swap is False:
        border_swap = SkippedSection(f"No border swap was requested. {runs_model}")
    if contrast is False:
        contrast = SkippedSection(f"No contrast was requested. {runs_model}")
    audit = content_of(
        "audit", 0, audit, lambda: run_audit(database, index, concept_set, **settings)
    )
    unexpected = content_of(
        "unexpected", 1, unexpected, lambda: class_unexpected(database, index, concept_set, audit)
    )
    map_content = content_of("map", 2, concept_map, lambda: class_map(database, index))
    graph_content = content_of(
        "graph", 3, graph, lambda: class_graph(database, index, audit, layers)
    )
    borders = content_of("border swap", 4, border_swap, lambda: run_border_swap(database, index))
    errors = content_of(
        "contrast", 5, contrast, lambda: run_contrast(database, errors=index, layers=layers)
    )
    test = content_of(
        "test", 6, model_test,
        lambda: run_model_test(database, index, spurious=spurious, artefacts=inserted, seed=seed),
    )  # fmt: skip
    scores = compute_scores(database)
    audit_settings = {} if isinstance(audit, SkippedSection) else audit.settings
    body = [
        identity(database, index, concept_set, audit_settings, __version__),
        overview(database, scores),
        map_section(map_content, name),
        audit_section(audit, database, shown),
        *([] if record is None else [review_section(record, audit, database)]),
        unexpected_section(unexpected, shown, _criterion(audit)),
        graph_section(graph_content),
        examples_section(audit, database, badges(audit), scores),
        border_section(borders, name),
        contrast_section(errors, shown),
        model_test_section(test),
        correction_section(sensitivity or no_correction),
    ]
    missing = [section for section in body if section.missing]
    correction = None if isinstance(sensitivity, SkippedSection) else sensitivity
    values = None if isinstance(test, SkippedSection) else test_values(test)
    closing = [
        limits(database, index, concept_set, audit, values, correction, missing),
        reproduce(database, command or _command(database, name, concept_set, record), __version__),
    ]
    badge, sentence = verdict(audit)
    more = [
        *([] if isinstance(borders, SkippedSection) else [border_sentence(borders, name)]),
        *([] if values is None else [test_sentence(values)]),
        *([] if correction is None else [correction_sentence(correction)]),
    ]
    page = ReportPage(
        f"Report on '{name}' in {database.manifest.model.spec}",
        badge,
        sentence,
        more,
        f"Created on {date.isoformat()} with semlens {__version__}.",
        (*body, *closing),
    )
    report_progress("report", STEPS, STEPS)
    return Report(index, name, page, None if isinstance(audit, SkippedSection) else audit)


def _saved_record(
    database: Database, saved: int | AuditRecord, target: object, concepts: object
) -> AuditRecord:
    """Return the saved audit for a report.

    Raises
    ------
    RecipeError
        If a class or concepts were also given.
    """
    if target is not None or concepts is not None:
        raise RecipeError(
            "A saved audit and a class or concepts were given.",
            "Expected one of them: a saved audit has its own class, concepts and settings.",
            "Remove the saved audit, or the class and concepts.",
        )
    audits = saved_audits(database)
    record = saved if isinstance(saved, AuditRecord) else audits.get(saved)
    audits.check_class(record)
    return record


def _parse_date(date: datetime.date | str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(str(date))
    except ValueError as error:
        raise RecipeError(
            f"'{date}' is not a valid date.", "Expected YYYY-MM-DD.", "Correct it."
        ) from error


def _criterion(audit: Audit | SkippedSection) -> str:
    if isinstance(audit, SkippedSection):
        return "A component is unexpected if no concept describes it better than random crops."
    return (
        "A component is unexpected if neither a valid nor a spurious concept aligns with it above "
        "the threshold of the audit."
    )


def _command(
    database: Database, name: str, concepts: ConceptSet, record: AuditRecord | None
) -> Sequence[str]:
    words = ["semlens", "report", database.path.name]
    if record is not None:
        return [*words, "--saved", str(record.id)]
    return [*words, "--target", name, "--concepts", concepts.name]
