"""Sections of lenses that declare one: what each found about the class of the report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from semlens.draw.figures import draw_figure
from semlens.draw.report_page import Details, Paragraph, ReportBlock, ReportTable, figure_picture
from semlens.draw.report_page import Section as ReportSection
from semlens.errors import LensError, RecipeError, SemlensError, nearest
from semlens.figures import Components, FigureSpec, Values
from semlens.lens import Lens, lens_of, load_lens, registered
from semlens.lenses.report.section_parts import SkippedSection
from semlens.lenses.result import Result, Section
from semlens.store.reader import Database
from semlens.types import Layers
from semlens.wording import p_value


@dataclass(frozen=True)
class LensSection:
    """A lens that has a section in the report.

    Parameters
    ----------
    name
        Name of the lens, and of its section.
    """

    name: str
    function: Callable[..., Any]
    declared: Lens

    @property
    def on_request(self) -> bool:
        """Whether it runs the model."""
        return "model" in self.declared.needs

    def answer(
        self, database: Database, target: int, layers: Layers, requested: bool
    ) -> Result | SkippedSection:
        """Return what the lens finds about a class, or why the section is missing.

        What the database keeps is preferred, since it is corrected for everything that was run.
        """
        kept = self.declared.kept or (lambda _: None)
        try:
            found = None
            if requested or not self.on_request:
                about: dict[str, Any] = {self.declared.about: target, "layers": layers}
                taken = inspect.signature(self.function).parameters
                found = self.function(
                    database, **{name: value for name, value in about.items() if name in taken}
                )
            if (result := kept(database) or found) is not None:
                return result
        except SemlensError as error:
            return SkippedSection(str(error))
        return SkippedSection(
            f"No {self.name.replace('_', ' ')} was requested. It runs the model on images of the "
            f"database: --run {self.name}, or run=['{self.name}'] in Python."
        )

    def section(
        self, result: Result | SkippedSection, target: str, shown: int
    ) -> tuple[ReportSection, list[str]]:
        """Return the section, and its sentences."""
        if isinstance(result, SkippedSection):
            missing = ReportSection(self.name, self.declared.report, missing=result.reason)
            return missing, []
        found = result.section(target)
        blocks = _blocks(found, getattr(result, "database", None), shown)
        return ReportSection(self.name, self.declared.report, blocks), [*found.sentences]


def lens_sections(run: Iterable[str]) -> list[LensSection]:
    """Return the lenses that have a section.

    Raises
    ------
    RecipeError
        If a section that should be run is none of these.
    """
    sections: list[LensSection] = []
    for name in registered():
        try:
            function = load_lens(name)
        except LensError:  # of another package: the report does without it
            continue
        declared = lens_of(function)
        if declared is not None and declared.report:
            sections.append(LensSection(name, function, declared))
    names = [section.name for section in sections]
    for name in run:
        if name not in names:
            raise RecipeError(
                f"The report has no section '{name}' to run.",
                f"The nearest are {nearest(name, names)}.",
                "Correct the name, or leave it out.",
            )
    return sections


def _blocks(found: Section, database: Database | None, shown: int) -> list[ReportBlock]:
    blocks: list[ReportBlock] = [Paragraph(sentence) for sentence in found.sentences]
    if found.figure is not None:
        picture = draw_figure(replace(found.figure, title=""), database)
        blocks.append(figure_picture(picture, described(found.figure), found.figure.title))
    if found.limits:
        blocks.append(Paragraph(found.limits))
    if found.table is not None and len(found.table):
        rest = len(found.table) - shown
        caption = "In numbers" + (f"; {rest} more rows are not shown" if rest > 0 else "")
        blocks.append(Details("In numbers", [data_table(caption, found.table.head(shown))]))
    return blocks


def described(figure: FigureSpec) -> str:
    """Describe a figure for those who do not see it: its values by name."""
    texts = [figure.title]
    for panel in figure.panels:
        values: list[tuple[str, float | None]] = []
        if isinstance(panel, Components):
            values = [(row.label or str(row.component), row.value) for row in panel.rows]
        elif isinstance(panel, Values):
            for series in panel.series:
                names = [" ".join([name, series.name]).strip() for name in panel.names]
                values += zip(names, series.values, strict=True)
        told = ", ".join(f"{name} {value:.2f}" for name, value in values if value is not None)
        texts.append(": ".join(text for text in (panel.title, told) if text))
    return ". ".join(text for text in texts if text) + "."


def data_table(caption: str, frame: pd.DataFrame) -> ReportTable:
    """Return the numbers of a result as a table."""
    columns = [str(column) for column in frame.columns]
    numeric = [
        place for place, column in enumerate(columns)
        if pd.api.types.is_numeric_dtype(frame[column]) and frame[column].dtype != bool
    ]  # fmt: skip
    rows = [
        [_cell(column, value) for column, value in row.items()] for row in frame.to_dict("records")
    ]
    return ReportTable(caption, [name.replace("_", " ") for name in columns], rows, numeric)


def _cell(column: Any, value: Any) -> str:
    if value is None or value is pd.NA or value != value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return p_value(value) if column in ("p_value", "q_value", "adjusted") else f"{value:.3f}"
    return str(value)
