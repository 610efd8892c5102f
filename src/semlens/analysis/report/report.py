"""The report on a class: all that is known of it, as one file that can be handed over."""

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
from semlens.analysis.audit.audit import audit as make_audit
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.model_test import Spurious
from semlens.analysis.audit.model_test import model_test as make_test
from semlens.analysis.audit.saved_audits import AuditRecord, saved_audits
from semlens.analysis.class_relevance import MINIMUM, Minimum
from semlens.analysis.classes import class_name
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.correct.sensitivity import Sensitivity
from semlens.analysis.describe.concept_map import ConceptMap
from semlens.analysis.describe.concept_map import concept_map as lay_out
from semlens.analysis.describe.unexpected import Unexpected
from semlens.analysis.describe.unexpected import unexpected as find_unexpected
from semlens.analysis.graph.attribution_graph import AttributionGraph, attribution_graph
from semlens.analysis.label import label
from semlens.analysis.report.audit_sections import audit_section, badges, review_section, verdict
from semlens.analysis.report.limits import limits, reproduce
from semlens.analysis.report.model_sections import (
    Tested,
    correction_section,
    correction_sentence,
    graph_labels,
    model_test_section,
    read_model_test,
    read_sensitivity,
    test_sentence,
    test_values,
)
from semlens.analysis.report.sections import (
    Part,
    SkippedSection,
    attempt,
    examples_section,
    graph_section,
    identity,
    map_section,
    overview,
    unexpected_section,
)
from semlens.analysis.resolve_concepts import ClassConcepts, OwnTarget, class_and_concepts
from semlens.analysis.result import TABLES, Result
from semlens.analysis.scores import scores as make_scores
from semlens.data.artefact import Artefacts, as_artefacts
from semlens.draw.report_page import ReportPage, page_html
from semlens.draw.text_table import rich_table
from semlens.errors import RecipeError, RelevanceError
from semlens.progress import report as tell
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers
from semlens.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12
"""Components that a section shows with their examples."""


@dataclass(frozen=True, repr=False, eq=False)
class Report(Result):
    """A report: one HTML file, with all pictures inside.

    Parameters
    ----------
    page
        Title, verdict and sections.
    audit
        The audit in it, if one could be made.
    file
        Where it is written, if a command does so.
    """

    ends = (".html", *TABLES)

    target: int
    name: str
    page: ReportPage
    audit: Audit | None
    file: str | None = None

    @property
    def html(self) -> str:
        """The file."""
        return page_html(self.page)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per section: title, whether it was made, and if not, why."""
        return pd.DataFrame(
            [
                {"section": part.key, "title": part.title, "made": not part.missing,
                 "reason": part.missing}
                for part in self.page.sections
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
        """Draw the audit.

        Raises
        ------
        RelevanceError
            If there is none.
        """
        if self.audit is None:
            raise RelevanceError(
                "The report has no audit.",
                "Expected one.",
                "See its sections for the reason.",
            )
        return self.audit.plot()

    def _text(self, end: str) -> str:
        return self.html

    def __rich__(self) -> RenderableType:
        """Return the verdict, and the parts that were not made."""
        table = self.to_pandas()
        missing: Any = table[~table["made"]]
        lines = [f"{self.page.verdict.text}: {self.page.sentence}", *self.page.more]
        shown = rich_table(missing, "\nParts that were not made", ["title", "reason"])
        return Group(*map(Text, lines), *([shown] if len(missing) else []))

    def _repr_html_(self) -> str:
        """Return the verdict for notebooks; the file is a page of its own."""
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
        setting("A saved audit, by its number: its class, lists and settings."),
    ] = None,
    layers: Layers = None,
    minimum: Minimum = MINIMUM,
    level: Level = LEVEL,
    threshold: Threshold = None,
    seed: Seed = 0,
    shown: Annotated[int, setting("Components that a part shows with examples.", ge=1)] = SHOWN,
    concept_map: Annotated[
        bool | ConceptMap | SkippedSection,
        setting("Lay out a map; takes minutes for 100,000 components."),
    ] = True,
    graph: Annotated[
        bool | AttributionGraph | SkippedSection, setting("Trace an attribution graph.")
    ] = True,
    artefacts: Artefacts = (),
    spurious: Spurious = None,
    model_test: Annotated[
        Tested | SkippedSection | str | Path | None,
        setting("A model test instead: .json of 'semlens test --save'."),
    ] = None,
    sensitivity: Annotated[
        Sensitivity | SkippedSection | str | Path | None,
        setting("A correction's effect: .json of 'semlens evaluate --save'."),
    ] = None,
    date: Annotated[
        datetime.date | str | None, setting("Date in the report: YYYY-MM-DD [today].")
    ] = None,
    audit: Audit | SkippedSection | None = None,
    unexpected: Unexpected | SkippedSection | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Report on a class: identity, overview, map, audit, components, graph, tests and limits.

    Every part is made here, unless it is given, left out, or cannot be made: then it says why in
    its place.

    Parameters
    ----------
    target, concepts, layers, minimum, level, threshold, seed
        As :func:`semlens.audit` takes them.
    saved
        A saved audit instead of these; its reviews and notes are shown, too.
    shown
        Components that a section shows with their examples.
    concept_map, graph
        Whether to make them, or the part itself.
    artefacts, spurious
        What to test the model with, as :func:`semlens.model_test` takes them.
    model_test, sensitivity
        A test and a correction that were made before, or their files.
    date
        Of the report; today by default.
    audit, unexpected
        Parts that were made before.
    command
        The words of the command that makes it, for its last section.

    Raises
    ------
    RelevanceError
        If there is no such class.
    ConceptError
        If there is no concept set, or none for the class.
    DataError
        If a file holds something else.
    """
    settings: dict[str, Any] = {
        "layers": layers, "minimum": minimum, "level": level, "threshold": threshold, "seed": seed,
    }  # fmt: skip
    kept = None if saved is None else _kept(database, saved, target, concepts)
    if kept is not None:
        target, concepts = kept.target, replace(kept.concepts, target=None)
        settings = kept.settings.given()
    number, held = class_and_concepts(database, target, concepts)
    name, layers, put = class_name(database, number), settings["layers"], as_artefacts(artefacts)
    day = datetime.date.today() if date is None else _day(date)
    database.rows(layers)  # a wrong name is told before anything is computed
    if isinstance(sensitivity, str | Path):
        sensitivity = read_sensitivity(Path(sensitivity))
    if isinstance(model_test, str | Path):
        model_test = read_model_test(Path(model_test), name)
    if model_test is None and not put and not spurious:
        model_test = SkippedSection(
            "No test was asked for. It needs an artefact to insert, or images of spurious features "
            "only."
        )
    uncorrected = SkippedSection(
        "No correction was given. It needs a corrected model, and accuracies of both with an "
        "artefact."
    )
    judged = _part("audit", 0, audit, lambda: make_audit(database, number, held, **settings))
    found = _part("unexpected", 1, unexpected, lambda: _unexpected(database, number, held, judged))
    placed = _part("map", 2, concept_map, lambda: _map(database, number))
    traced = _part("graph", 3, graph, lambda: _graph(database, number, judged, layers))
    test = _part(
        "test", 4, model_test,
        lambda: make_test(database, number, spurious=spurious, artefacts=put, seed=seed),
    )  # fmt: skip
    scores = make_scores(database)
    used = {} if isinstance(judged, SkippedSection) else judged.settings
    body = [
        identity(database, number, held, used, __version__),
        overview(database, scores),
        map_section(placed, name),
        audit_section(judged, database, shown),
        *([] if kept is None else [review_section(kept, judged, database)]),
        unexpected_section(found, shown, _against(judged)),
        graph_section(traced),
        examples_section(judged, database, badges(judged), scores),
        model_test_section(test),
        correction_section(sensitivity or uncorrected),
    ]
    missing = [part for part in body if part.missing]
    corrected = None if isinstance(sensitivity, SkippedSection) else sensitivity
    values = None if isinstance(test, SkippedSection) else test_values(test)
    end = [
        limits(database, number, held, judged, values, corrected, missing),
        reproduce(database, command or _command(database, name, held, kept), __version__),
    ]
    badge, sentence = verdict(judged)
    more = [
        *([] if values is None else [test_sentence(values)]),
        *([] if corrected is None else [correction_sentence(corrected)]),
    ]
    page = ReportPage(
        f"Report on '{name}' in {database.manifest.model.spec}",
        badge,
        sentence,
        more,
        f"Made on {day.isoformat()} with semlens {__version__}.",
        (*body, *end),
    )
    tell("report", PARTS, PARTS)
    return Report(number, name, page, None if isinstance(judged, SkippedSection) else judged)


PARTS = 5
"""Parts of a report that take long."""


def _part(
    name: str, done: int, given: Part | SkippedSection | bool | None, make: Callable[[], Part]
) -> Part | SkippedSection:
    """Return a part that is given, or make it unless it was not asked for."""
    tell("report", done, PARTS)
    if given is False:
        return SkippedSection(f"The {name} was not asked for.")
    return attempt(make) if given is None or given is True else given


def _kept(
    database: Database, saved: int | AuditRecord, target: object, concepts: object
) -> AuditRecord:
    """Return the saved audit that a report is of.

    Raises
    ------
    RecipeError
        If a class or concepts were given besides.
    """
    if target is not None or concepts is not None:
        raise RecipeError(
            "A saved audit and a class or concepts were given.",
            "Expected one: a saved audit has its own class, concepts and settings.",
            "Leave one out.",
        )
    known = saved_audits(database)
    kept = saved if isinstance(saved, AuditRecord) else known.get(saved)
    known.check_class(kept)
    return kept


def _day(date: datetime.date | str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(str(date))
    except ValueError as error:
        raise RecipeError(
            f"The report's date is '{date}'.", "Expected YYYY-MM-DD.", "Correct it."
        ) from error


def _graph(
    database: Database, target: int, judged: Audit | SkippedSection, layers: Layers
) -> AttributionGraph:
    """Trace the graph, by the audit's concepts and a general vocabulary."""
    words = label(database, layers=layers) if database.embedder.has_text else None
    components = [database.component(int(row)) for row in database.rows(layers)]
    labels = graph_labels(components, None if isinstance(judged, SkippedSection) else judged, words)
    return attribution_graph(database, target, labels, layers=layers)


def _map(database: Database, target: int) -> ConceptMap:
    """Return the map, coloured by relevance where there is any."""
    found = lay_out(database)
    related = database.manifest.relevance is not None
    return found.coloured("relevance", target) if related else found


def _unexpected(
    database: Database, target: int, concepts: ConceptSet, judged: Audit | SkippedSection
) -> Unexpected:
    """Return the components that the audit calls unexpected; without one, those under zero."""
    if isinstance(judged, SkippedSection):
        return find_unexpected(database, target, concepts)
    seen = set(judged.frame["layer"])
    return find_unexpected(
        database,
        target,
        concepts,
        layers=[name for name in database.layers if name in seen],
        minimum=judged.settings["minimum"],
        components=judged.unexpected,
    )


def _against(judged: Audit | SkippedSection) -> str:
    if isinstance(judged, SkippedSection):
        return "Unexpected is what no concept describes better than the empty prompt does."
    return (
        "These are the components that the audit calls unexpected: no valid and no spurious "
        "concept aligns with them above its threshold."
    )


def _command(
    database: Database, name: str, concepts: ConceptSet, kept: AuditRecord | None
) -> Sequence[str]:
    words = ["semlens", "report", database.path.name]
    own = ["--target", name, "--concepts", concepts.name]
    return [*words, *(own if kept is None else ["--saved", str(kept.id)])]
