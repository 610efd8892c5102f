"""A report as one HTML file: sections of paragraphs, tables, images and component cards."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.encode_images import decode_image, encode_webp
from semlens.draw.figure import figure_png, figure_svg
from semlens.draw.html import render, webp_uri
from semlens.draw.palette import VERDICTS


@dataclass(frozen=True)
class Badge:
    """A coloured word; ``kind`` is a verdict, ``alarm``, ``suspicion``, ``clear`` or ``open``."""

    text: str
    kind: str


Cell = str | Badge


class ReportBlock:
    """A piece of a section."""

    @property
    def kind(self) -> str:
        """The name by which the template selects the markup, such as ``table``."""
        return type(self).__name__.removeprefix("Report").lower()


@dataclass(frozen=True)
class Paragraph(ReportBlock):
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points(ReportBlock):
    """A list of pairs of a bold heading and a text."""

    points: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Commands(ReportBlock):
    """Command lines."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Facts(ReportBlock):
    """Names and values, one per line, each with an optional small line below."""

    caption: str
    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Values(ReportBlock):
    """Names and short values in columns."""

    caption: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ReportTable(ReportBlock):
    """A table; ``numbers`` are the indices of right-aligned columns."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class ReportPicture(ReportBlock):
    """An image as a data URI, with alternative text and caption."""

    uri: str
    alt: str
    caption: str
    adapts: bool = False
    """Whether the image itself adapts to light and dark pages."""


@dataclass(frozen=True)
class Thumb:
    """A thumbnail with the path of its file."""

    uri: str
    file: str


@dataclass(frozen=True)
class ReportCard:
    """A component with its examples, lines of text, and the classes it is relevant for.

    Parameters
    ----------
    heading
        What the component stands for, above its name.
    classes
        Name, share, width of the bar in percent, and whether it is the class of the report.
    """

    heading: str
    name: str
    badge: Badge | None = None
    lines: Sequence[str] = ()
    strip: Sequence[Thumb] = ()
    classes: Sequence[tuple[str, str, float, bool]] = ()


@dataclass(frozen=True)
class ReportCards(ReportBlock):
    """A list of component cards; ``files`` determines whether file names are shown."""

    cards: Sequence[ReportCard]
    files: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Shares(ReportBlock):
    """A bar of shares that add up to 1: a badge and a share each."""

    caption: str
    shares: Sequence[tuple[Badge, float]]


@dataclass(frozen=True)
class ChangedPicture:
    """An image with the prediction on it before and after the model was changed."""

    uri: str
    before: str
    after: str
    file: str


@dataclass(frozen=True)
class ChangedPictures(ReportBlock):
    """Images whose prediction changes."""

    caption: str
    pictures: Sequence[ChangedPicture]


@dataclass(frozen=True)
class Details(ReportBlock):
    """Blocks that are folded on the screen, and printed open."""

    summary: str
    blocks: Sequence[ReportBlock]


@dataclass(frozen=True)
class Section:
    """A section of the report; ``missing`` is the reason if it has no content."""

    key: str
    title: str
    blocks: Sequence[ReportBlock] = ()
    missing: str = ""
    flows: bool = False
    """Whether it continues on the same page in print."""


@dataclass(frozen=True)
class ReportPage:
    """The whole report; ``evidence`` is what its first page shows below the verdict."""

    title: str
    verdict: Badge
    sentence: str
    more: Sequence[str]
    evidence: Sequence[ReportBlock]
    created: str
    sections: Sequence[Section]


def page_html(page: ReportPage) -> str:
    """Render the report as HTML without external resources; all values are escaped."""
    return render("report.html.j2", page=page, colours=VERDICTS)


def figure_picture(figure: Figure, alt: str, caption: str, *, points: int = 0) -> ReportPicture:
    """Embed a plot as SVG, or as a bitmap if it has many points."""
    if points > _BITMAP_FROM:
        return ReportPicture(
            webp_uri(encode_webp(decode_image(figure_png(figure)), 88, 6)), alt, caption
        )
    return svg_picture(figure_svg(figure), alt, caption)


def svg_picture(svg: str, alt: str, caption: str, *, adapts: bool = False) -> ReportPicture:
    """Embed an SVG as a separate image, so that its ids cannot clash with those of others."""
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return ReportPicture(uri, alt, caption, adapts)


def picture_thumb(image: Image.Image, file: str) -> Thumb:
    """Embed a thumbnail."""
    return Thumb(webp_uri(encode_webp(image, 78)), file)


_BITMAP_FROM = 3000
"""Number of points beyond which an SVG is larger than a bitmap."""
