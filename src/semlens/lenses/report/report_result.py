"""The result of a report: the page, and whether each of its sections was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.report_page import ReportPage, page_html
from semlens.draw.text_table import rich_table
from semlens.errors import RelevanceError
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.result import TABLE_SUFFIXES, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def _html(self) -> str:
        """Return the verdict for notebooks."""
        from html import escape

        return f"<p><b>{escape(self.page.verdict.text)}</b>: {escape(self.page.sentence)}</p>"
