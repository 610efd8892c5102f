"""The report on a class: one HTML file with audit, map, graph, tests and limits."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from semlens.data.artefact import Artefacts, as_artefacts
from semlens.draw.report_page import ReportPage
from semlens.errors import RecipeError
from semlens.lens import lens
from semlens.lenses.audit.audit import audit_class
from semlens.lenses.audit.audit_records import (
    LEVEL,
    AuditRecord,
    AuditSettings,
    Level,
    Seed,
    Threshold,
    audit_records,
)
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.class_verdict import Experiment, SpeaksOfClasses
from semlens.lenses.audit.model_test import Spurious
from semlens.lenses.audit.model_test import model_test as run_model_test
from semlens.lenses.audit.saved_audits import reviewed_audit
from semlens.lenses.class_relevance import MINIMUM, Minimum
from semlens.lenses.classes import class_name
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.correct.artefact_sensitivity import Sensitivity
from semlens.lenses.correct.before_after import BeforeAfter
from semlens.lenses.describe.concept_map import ConceptMap
from semlens.lenses.describe.unexpected import Unexpected
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.report.audit_sections import (
    audit_section,
    badges,
    evidence,
    review_section,
    verdict,
)
from semlens.lenses.report.closing_sections import identity, limits, overview, reproduce
from semlens.lenses.report.concept_sections import (
    examples_section,
    graph_section,
    map_section,
    unexpected_section,
)
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
from semlens.lenses.report.lens_sections import lens_sections
from semlens.lenses.report.report_result import Report
from semlens.lenses.report.section_parts import (
    SkippedSection,
    class_graph,
    class_map,
    class_repair,
    class_unexpected,
    content_of,
    parse_date,
)
from semlens.lenses.resolve_concepts import ClassConcepts, OwnTarget, class_and_concepts
from semlens.lenses.result import Result
from semlens.lenses.scores import scores as compute_scores
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
    sensitivity: Annotated[
        Sensitivity | SkippedSection | str | Path | None,
        setting("Effect of a correction: .json of 'semlens correct sensitivity --save'."),
    ] = None,
    date: Annotated[
        datetime.date | str | None, setting("Date of the report: YYYY-MM-DD [today].")
    ] = None,
    run: Annotated[
        Sequence[str],
        setting("Section to make that runs the model on images, by its lens: swap or contrast."),
    ] = (),
    results: Mapping[str, Result] = MappingProxyType({}),
    audit: Audit | SkippedSection | None = None,
    unexpected: Unexpected | SkippedSection | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Write a report on a class: audit, concept map, components, graph, tests and limits.

    Results that are not passed are computed. A section whose result is excluded or fails shows
    the reason instead. Each lens that declares one has a section; what runs the model is made on
    request, or shown if the database keeps it.

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
    run
        Names of lenses to run for their sections.
    results
        Existing results for such sections, by the name of the lens.
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
    settings = AuditSettings.of(layers, minimum, level, threshold, seed)
    record = None if saved is None else _saved_record(database, saved, target, concepts)
    if record is not None:
        target, concepts = record.target, replace(record.concepts, target=None)
        settings = record.settings
    index, concept_set = class_and_concepts(database, target, concepts)
    name, layers = class_name(database, index), settings.layers
    inserted = as_artefacts(artefacts)
    date = datetime.date.today() if date is None else parse_date(date)
    database.rows(layers)  # raises for an unknown layer before anything is computed
    lenses = lens_sections(run)
    if isinstance(sensitivity, str | Path):
        sensitivity = read_sensitivity(Path(sensitivity))
    if isinstance(model_test, str | Path):
        model_test = read_model_test(Path(model_test), name)
    if model_test is None and not inserted and not spurious:
        model_test = SkippedSection(
            "No model test was requested. It needs an artefact to insert, or images of spurious "
            "features only."
        )
    correction = sensitivity or SkippedSection(
        "No correction was given. It needs accuracies of the original and a corrected model with "
        "an artefact."
    )
    steps = 6 + len(lenses)
    done = 0

    def made(content: Any, compute: Callable[[], Any], name: str = "") -> Any:
        """Make the content of the next section."""
        nonlocal done
        report_progress("report", done, steps)
        done += 1
        return content_of(name, content, compute)

    answers = [
        made(
            results.get(one.name),
            functools.partial(one.answer, database, index, layers, one.name in run),
        )
        for one in lenses
    ]
    judged: Audit | SkippedSection = made(
        audit, lambda: audit_class(database, index, concept_set, settings)
    )
    strange: Unexpected | SkippedSection = made(
        unexpected, lambda: class_unexpected(database, index, concept_set, judged)
    )
    map_content = made(concept_map, lambda: class_map(database, index), "map")
    graph_content = made(graph, lambda: class_graph(database, index, judged, layers), "graph")
    if not isinstance(judged, SkippedSection):
        judged = replace(judged, experiments=_experiments(answers, index))
    test = made(
        model_test,
        lambda: run_model_test(database, index, spurious=spurious, artefacts=inserted, seed=seed),
    )
    repair = made(before_after, lambda: class_repair(database, judged, record), "repair")
    if record is not None and not isinstance(judged, SkippedSection):
        judged = reviewed_audit(judged, record.reviews)
    scores = compute_scores(database)
    own = [one.section(answer, name, shown) for one, answer in zip(lenses, answers, strict=True)]
    body = [
        audit_section(judged, database, shown),
        *([] if record is None else [review_section(record, judged, database)]),
        unexpected_section(strange, shown, _criterion(judged)),
        graph_section(graph_content),
        map_section(map_content, name),
        examples_section(judged, database, badges(judged), scores),
        repair_section(repair),
        model_test_section(test),
        correction_section(correction),
        *(section for section, _ in own),
        overview(database, scores),
        identity(
            database, index, concept_set,
            {} if isinstance(judged, SkippedSection) else judged.settings, __version__,
        ),
    ]  # fmt: skip
    missing = [section for section in body if section.missing]
    values = None if isinstance(test, SkippedSection) else test_values(test)
    measured = None if isinstance(correction, SkippedSection) else correction
    closing = [
        limits(database, index, concept_set, judged, values, measured, missing),
        reproduce(database, command or _command(database, name, concept_set, record), __version__),
    ]
    badge, sentence = verdict(judged)
    more = [
        *(sentence for _, sentences in own for sentence in sentences),
        *([] if values is None else [test_sentence(values)]),
        *([] if measured is None else [correction_sentence(measured)]),
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
    report_progress("report", steps, steps)
    return Report(index, name, page, None if isinstance(judged, SkippedSection) else judged)


def _experiments(answers: Sequence[Any], target: int) -> Sequence[Experiment]:
    """Return what the results of experiments without words say about the class."""
    return [
        said
        for answer in answers
        if isinstance(answer, SpeaksOfClasses)
        for said in answer.experiments().get(target, ())
    ]


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
    audits = audit_records(database)
    record = saved if isinstance(saved, AuditRecord) else audits.get(saved)
    audits.check_class(record)
    return record
