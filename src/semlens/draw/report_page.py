"""A report as one HTML file: sections that are made of a few kinds of blocks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.encode_images import decoded, encoded
from semlens.draw.figure import VERDICTS, figure_png, figure_svg
from semlens.draw.html import render, webp_uri


@dataclass(frozen=True)
class Badge:
    """A word with its colour beside it: a verdict, or ``alarm``, ``clear``, ``open``."""

    text: str
    kind: str


Cell = str | Badge


class ReportBlock:
    """A piece of a section; its kind, the class's name, says how it is set."""

    @property
    def kind(self) -> str:
        """Name of the block's kind."""
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Paragraph(ReportBlock):
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points(ReportBlock):
    """A list; ``head`` is set before each text."""

    points: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Commands(ReportBlock):
    """Lines to type."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Facts(ReportBlock):
    """Names and values, a line each, with a small line below where there is more."""

    caption: str
    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Values(ReportBlock):
    """Names and short values, side by side."""

    caption: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ReportTable(ReportBlock):
    """A table; ``numbers`` are the places of columns that stand to the right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class ReportPicture(ReportBlock):
    """A picture as a data URI, with what it shows in words."""

    uri: str
    alt: str
    caption: str
    adapts: bool = False
    """Whether it suits light and dark pages by itself."""


@dataclass(frozen=True)
class Thumb:
    """A small picture with the file that it comes from."""

    uri: str
    file: str


@dataclass(frozen=True)
class ReportCard:
    """A component: its examples, what is known of it, and the classes that it drives.

    Parameters
    ----------
    classes
        Name, share and width of the bar in per cent; and whether it is the class asked for.
    """

    name: str
    badge: Badge | None = None
    lines: Sequence[str] = ()
    strip: Sequence[Thumb] = ()
    classes: Sequence[tuple[str, str, float, bool]] = ()


@dataclass(frozen=True)
class ReportCards(ReportBlock):
    """Components, one below the other; ``files`` says whether file names are written out."""

    cards: Sequence[ReportCard]
    files: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report; one that could not be made says why."""

    key: str
    title: str
    blocks: Sequence[ReportBlock] = ()
    missing: str = ""
    flows: bool = False
    """Whether it goes on where the one before ends, in print."""


@dataclass(frozen=True)
class ReportPage:
    """The whole report."""

    title: str
    verdict: Badge
    sentence: str
    more: Sequence[str]
    made: str
    sections: Sequence[Section]


def page_html(page: ReportPage) -> str:
    """Return the report as HTML that asks nothing of any host; every value is escaped."""
    return render("report.html.j2", page=page, colours=VERDICTS)


def figure_picture(figure: Figure, alt: str, caption: str, *, points: int = 0) -> ReportPicture:
    """Embed a plot: as vectors, or as pixels where it has too many points for that."""
    if points > _MANY:
        return ReportPicture(webp_uri(encoded(decoded(figure_png(figure)), 88, 6)), alt, caption)
    return svg_picture(figure_svg(figure), alt, caption)


def svg_picture(svg: str, alt: str, caption: str, *, adapts: bool = False) -> ReportPicture:
    """Embed an SVG as an image of its own: its names cannot clash with those of another."""
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return ReportPicture(uri, alt, caption, adapts)


def picture_thumb(picture: Image.Image, file: str) -> Thumb:
    """Embed a small picture."""
    return Thumb(webp_uri(encoded(picture, 78)), file)


_MANY = 3000
"""Points of a plot beyond which an SVG is larger than a picture."""
