"""A report as one HTML file: sections that are made of a few kinds of blocks."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import VERDICTS, figure_png, figure_svg
from semlens.draw.html import render, webp_uri


@dataclass(frozen=True)
class Badge:
    """A word with its colour beside it: a verdict, or ``alarm``, ``clear``, ``open``."""

    text: str
    kind: str


Cell = str | Badge


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Points:
    """A list; ``head`` is set before each text."""

    kind: ClassVar[str] = "points"
    points: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Commands:
    """Lines to type."""

    kind: ClassVar[str] = "commands"
    lines: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and values, a line each, with a small line below where there is more."""

    kind: ClassVar[str] = "facts"
    caption: str
    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Values:
    """Names and short values, side by side."""

    kind: ClassVar[str] = "values"
    caption: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table; ``numbers`` are the places of columns that stand to the right."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with what it shows in words."""

    kind: ClassVar[str] = "picture"
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
class Card:
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
class Cards:
    """Components, one below the other; ``files`` says whether file names are written out."""

    kind: ClassVar[str] = "cards"
    cards: Sequence[Card]
    files: bool = False


Block = Text | Points | Commands | Facts | Values | Table | Picture | Cards


@dataclass(frozen=True)
class Section:
    """A part of the report; one that could not be made says why."""

    key: str
    title: str
    blocks: Sequence[Block] = ()
    missing: str = ""
    flows: bool = False
    """Whether it goes on where the one before ends, in print."""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    verdict: Badge
    sentence: str
    more: Sequence[str]
    made: str
    sections: Sequence[Section]


def page_html(page: Page) -> str:
    """Return the report as HTML that asks nothing of any host; every value is escaped."""
    return render("report.html.j2", page=page, colours=VERDICTS)


def figure_picture(figure: Figure, alt: str, caption: str, *, points: int = 0) -> Picture:
    """Embed a plot: as vectors, or as pixels where it has too many points for that."""
    if points > _MANY:
        picture, held = Image.open(io.BytesIO(figure_png(figure))).convert("RGB"), io.BytesIO()
        picture.save(held, "WEBP", quality=88, method=6)
        return Picture(webp_uri(held.getvalue()), alt, caption)
    return svg_picture(figure_svg(figure), alt, caption)


def svg_picture(svg: str, alt: str, caption: str, *, adapts: bool = False) -> Picture:
    """Embed an SVG as an image of its own: its names cannot clash with those of another."""
    coded = base64.b64encode(svg.encode()).decode()
    return Picture(f"data:image/svg+xml;base64,{coded}", alt, caption, adapts)


def picture_thumb(picture: Image.Image, file: str) -> Thumb:
    """Embed a small picture."""
    held = io.BytesIO()
    picture.save(held, "WEBP", quality=78, method=4)
    return Thumb(webp_uri(held.getvalue()), file)


_MANY = 3000
"""Points of a plot beyond which an SVG is larger than a picture."""
