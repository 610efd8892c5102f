"""The report on a class: one HTML file with audit, map, graph, tests and limits."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.audit.audit import LEVEL, Level, Seed, Threshold
from semlens.analysis.audit.audit import audit as run_audit
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.model_test import Spurious
from semlens.analysis.audit.model_test import model_test as run_model_test
from semlens.analysis.audit.saved_audits import AuditRecord, saved_audits
from semlens.analysis.class_relevance import MINIMUM, Minimum
from semlens.analysis.classes import class_name
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.correct.artefact_sensitivity import Sensitivity
from semlens.analysis.describe.concept_map import ConceptMap
from semlens.analysis.describe.concept_map import concept_map as compute_map
from semlens.analysis.describe.unexpected import Unexpected
from semlens.analysis.describe.unexpected import unexpected as find_unexpected
from semlens.analysis.graph.attribution_graph import AttributionGraph, attribution_graph
from semlens.analysis.label import label
from semlens.analysis.report.audit_sections import audit_section, badges, review_section, verdict
from semlens.analysis.report.correction_sections import (
    ModelTestLike,
    correction_section,
    correction_sentence,
    graph_labels,
    model_test_section,
    read_model_test,
    read_sensitivity,
    test_sentence,
    test_values,
)
from semlens.analysis.report.limits import limits, reproduce
from semlens.analysis.report.sections import (
    Content,
    SkippedSection,
    examples_section,
    graph_section,
    identity,
    map_section,
    overview,
    unexpected_section,
)
from semlens.analysis.resolve_concepts import ClassConcepts, OwnTarget, class_and_concepts
from semlens.analysis.result import TABLE_SUFFIXES, Result
from semlens.analysis.scores import scores as compute_scores
from semlens.data.artefact import Artefacts, as_artefacts
from semlens.draw.report_page import ReportPage, page_html
from semlens.draw.text_table import rich_table
from semlens.errors import RecipeError, RelevanceError, SemlensError
from semlens.progress import report_progress as report_progress
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers
from semlens.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12
"""Components that a section shows with examples."""


@dataclass(frozen=True, repr=False, eq=False)
class Report(Result):
    """A report: one self-contained HTML file.

    Parameters
    ----------
    page
        Title, verdict and sections.
    audit
        The audit, if there is one.
    file
        Path of the file, if the command line wrote one.
    """

    suffixes = (".html", *TABLE_SUFFIXES)

    target: int
    name: str
    page: ReportPage
    audit: Audit | None
    file: str | None = None

    @property
    def html(self) -> str:
        """The content of the HTML file."""
        return page_html(self.page)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per section: title, whether it was made, and the reason if not."""
        return pd.DataFrame(
            [
                {"section": section.key, "title": section.title, "made": not section.missing,
                 "reason": section.missing}
                for section in self.page.sections
            ]
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "target": {"logit": self.target, "name": self.name},
            "verdict": self.page.verdict.text,
            "sentence": self.page.sentence,
            "sections": self.to_pandas().to_dict("records"),
            **({} if self.file is None else {"file": self.file}),
        }

    def plot(self) -> Figure:
        """Plot the audit.

        Raises
        ------
        RelevanceError
            If the report has no audit.
        """
        if self.audit is None:
            raise RelevanceError(
                "The report has no audit.",
                "Expected one to plot.",
                "See to_pandas() for the reason.",
            )
        return self.audit.plot()

    def _file_text(self, suffix: str) -> str:
        return self.html

    def __rich__(self) -> RenderableType:
        """Return the verdict and the missing sections."""
        table = self.to_pandas()
        missing: Any = table[~table["made"]]
        lines = [f"{self.page.verdict.text}: {self.page.sentence}", *self.page.more]
        shown = rich_table(missing, "\nMissing sections", ["title", "reason"])
        return Group(*map(Text, lines), *([shown] if len(missing) else []))

    def _repr_html_(self) -> str:
        """Return the verdict for notebooks."""
        from html import escape

        return f"<p><b>{escape(self.page.verdict.text)}</b>: {escape(self.page.sentence)}</p>"


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
    audit = _content("audit", 0, audit, lambda: run_audit(database, index, concept_set, **settings))
    unexpected = _content(
        "unexpected", 1, unexpected, lambda: _unexpected(database, index, concept_set, audit)
    )
    map_content = _content("map", 2, concept_map, lambda: _map(database, index))
    graph_content = _content("graph", 3, graph, lambda: _graph(database, index, audit, layers))
    test = _content(
        "test", 4, model_test,
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


STEPS = 5
"""Slow steps of a report."""


def _content(
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


def _graph(
    database: Database, target: int, audit: Audit | SkippedSection, layers: Layers
) -> AttributionGraph:
    """Compute the graph, labelled by the audit's concepts and a general vocabulary."""
    vocabulary = label(database, layers=layers) if database.embedder.has_text else None
    components = [database.component(int(row)) for row in database.rows(layers)]
    audited = None if isinstance(audit, SkippedSection) else audit
    labels = graph_labels(components, audited, vocabulary)
    return attribution_graph(database, target, labels, layers=layers)


def _map(database: Database, target: int) -> ConceptMap:
    """Return the map, coloured by relevance if the database has it."""
    concept_map = compute_map(database)
    has_relevance = database.manifest.relevance is not None
    return concept_map.coloured("relevance", target) if has_relevance else concept_map


def _unexpected(
    database: Database, target: int, concepts: ConceptSet, audit: Audit | SkippedSection
) -> Unexpected:
    """Return the audit's unexpected components; without an audit, those not above noise."""
    if isinstance(audit, SkippedSection):
        return find_unexpected(database, target, concepts)
    audited_layers = set(audit.frame["layer"])
    return find_unexpected(
        database,
        target,
        concepts,
        layers=[name for name in database.layers if name in audited_layers],
        minimum=audit.settings["minimum"],
        components=audit.unexpected,
    )


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
