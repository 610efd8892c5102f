"""The report on a class: all that is known of it, as one file that can be handed over."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.audit.audit import audit as make_audit
from semlens.analysis.audit.found import Audit
from semlens.analysis.audit.record import AuditRecord
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.correct.sensitivity import Sensitivity
from semlens.analysis.describe.map import ConceptMap, concept_map
from semlens.analysis.describe.unexpected import Unexpected
from semlens.analysis.describe.unexpected import unexpected as find_unexpected
from semlens.analysis.graph.graph import AttributionGraph
from semlens.analysis.report.audit import audit_section, badges, verdict
from semlens.analysis.report.limits import limits, reproduce
from semlens.analysis.report.reviews import review_section
from semlens.analysis.report.sections import (
    Skipped,
    attempt,
    examples_section,
    graph_section,
    identity,
    map_section,
    overview,
    unexpected_section,
)
from semlens.analysis.report.trials import (
    Tested,
    correction_section,
    correction_sentence,
    model_test_section,
    test_sentence,
    test_values,
)
from semlens.analysis.result import Result, check_end
from semlens.analysis.scores import scores as make_scores
from semlens.analysis.target import class_name, find_class
from semlens.draw.report_page import Page, page_html
from semlens.draw.table import rich_table
from semlens.errors import RelevanceError
from semlens.store.files import save_text
from semlens.store.reader import Database
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
    """

    target: int
    name: str
    page: Page
    audit: Audit | None

    @property
    def html(self) -> str:
        """The file."""
        return page_html(self.page)

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises
        ------
        StoreError
            If the path does not end in .html, or cannot be written.
        """
        text = self.html
        save_text(check_end(path, (".html",)), text)

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

    def __rich__(self) -> RenderableType:
        """Return the verdict, and the parts that were not made."""
        table = self.to_pandas()
        missing: Any = table[~table["made"]]
        lines: list[RenderableType] = [
            Text(f"{self.page.verdict.text}: {self.page.sentence}"),
            *(Text(line) for line in self.page.more),
        ]
        if len(missing):
            lines.append(rich_table(missing, "\nParts that were not made", ["title", "reason"]))
        return Group(*lines)

    def _repr_html_(self) -> str:
        """Return the verdict for notebooks; the file is a page of its own."""
        from html import escape

        return f"<p><b>{escape(self.page.verdict.text)}</b>: {escape(self.page.sentence)}</p>"


def report(
    database: Database,
    target: int | str,
    concepts: ConceptSet,
    *,
    audit: Audit | Skipped | None = None,
    unexpected: Unexpected | Skipped | None = None,
    concept_map: ConceptMap | Skipped | None = None,
    graph: AttributionGraph | Skipped | None = None,
    model_test: Tested | Skipped | None = None,
    sensitivity: Sensitivity | Skipped | None = None,
    kept: AuditRecord | None = None,
    date: datetime.date | None = None,
    command: Sequence[str] = (),
    shown: int = SHOWN,
) -> Report:
    """Report on a class: identity, overview, map, audit, components, graph, tests and limits.

    What follows from the database alone is made here unless it is given: map, audit and
    unexpected components. What needs the model is shown if it is given. A part that cannot be
    made, or is given as ``Skipped``, says why in its place.

    Parameters
    ----------
    target
        Class, by name or by the number of its logit.
    concepts
        What the class should rest on (``valid``) and what not (``spurious``).
    kept
        The saved audit whose reviews and notes are shown.
    date
        Of the report; today by default.
    command
        The words of the command that makes it, for its last section.
    shown
        Components that a section shows with their examples.

    Raises
    ------
    RelevanceError
        If there is no such class.
    """
    number = find_class(database, target)
    name = class_name(database, number)
    judged = audit or attempt(lambda: make_audit(database, number, concepts))
    found = unexpected or _unexpected(database, number, concepts, judged)
    placed = concept_map or attempt(lambda: _map(database, number))
    scores = make_scores(database)
    settings = {} if isinstance(judged, Skipped) else judged.settings
    relevant = judged if isinstance(judged, Skipped) else judged.frame
    body = [
        identity(database, number, concepts, settings, __version__),
        overview(database, scores),
        map_section(placed, name),
        audit_section(judged, database, shown),
        *([] if kept is None else [review_section(kept, judged, database)]),
        unexpected_section(found, shown, _against(judged)),
        graph_section(graph or Skipped(_NO_GRAPH)),
        examples_section(database, relevant, badges(judged), scores),
        model_test_section(model_test or Skipped(_NO_TEST)),
        correction_section(sensitivity or Skipped(_NO_CORRECTION)),
    ]
    missing = [part for part in body if part.missing]
    tested = None if model_test is None or isinstance(model_test, Skipped) else model_test
    corrected = None if isinstance(sensitivity, Skipped) else sensitivity
    values = None if tested is None else test_values(tested)
    end = [
        limits(database, number, concepts, judged, values, corrected, missing),
        reproduce(database, command or _command(database, name, concepts, kept), __version__),
    ]
    badge, sentence = verdict(judged)
    more = [] if values is None else [test_sentence(values)]
    more += [] if corrected is None else [correction_sentence(corrected)]
    page = Page(
        f"Report on '{name}' in {database.manifest.model.spec}",
        badge,
        sentence,
        more,
        f"Made on {(date or datetime.date.today()).isoformat()} with semlens {__version__}.",
        (*body, *end),
    )
    return Report(number, name, page, None if isinstance(judged, Skipped) else judged)


_NO_GRAPH = "No attribution graph was given: it needs the model and the images."
_NO_TEST = (
    "No test was given. It needs the model, and an artefact to insert (--artefact) or images of "
    "spurious features (--spurious)."
)
_NO_CORRECTION = (
    "No correction was given. It needs a corrected model, and accuracies of both with an artefact."
)


def _map(database: Database, target: int) -> ConceptMap:
    """Return the map, coloured by relevance where there is any."""
    found = concept_map(database)
    if database.manifest.relevance is None:
        return found
    return found.coloured("relevance", target)


def _unexpected(
    database: Database, target: int, concepts: ConceptSet, judged: Audit | Skipped
) -> Unexpected | Skipped:
    """Return the components that the audit calls unexpected; without one, those under zero."""
    if isinstance(judged, Skipped):
        return attempt(lambda: find_unexpected(database, target, concepts))
    minimum, layers = judged.settings["minimum"], sorted(set(judged.frame["layer"]))
    layers = [name for name in database.layers if name in layers]
    return find_unexpected(
        database, target, concepts, layers=layers, minimum=minimum, components=judged.unexpected
    )


def _against(judged: Audit | Skipped) -> str:
    if isinstance(judged, Skipped):
        return "Unexpected is what no concept describes better than the empty prompt does."
    return (
        "These are the components that the audit calls unexpected: no valid and no spurious "
        "concept aligns with them above its threshold."
    )


def _command(
    database: Database, name: str, concepts: ConceptSet, kept: AuditRecord | None
) -> Sequence[str]:
    words = ["semlens", "report", database.path.name]
    if kept is not None:
        return [*words, "--saved", str(kept.id)]
    return [*words, "--target", name, "--concepts", concepts.name]
