"""Pictures of several examples: strips, and contact sheets.

A sheet has one row of examples per component, or per pair of two databases (paper, Fig. E.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from semlens.draw.encode_images import encode_webp, font
from semlens.draw.example_picture import example_picture, no_example
from semlens.store.reader import Database

INK, SOFT, FULL, EMPTY = "#1b2430", "#8b95a3", "#2f6fde", "#eceff4"
"""Colours of the mark, of a bar that does not stand out, of one that does, and of the rest."""
CELL = 96
"""Side of an example in a strip or on a sheet, in pixels."""
STRIP_GAP = 2
"""Transparent pixels between the examples of a strip."""


def example_strip(database: Database, row: int, count: int = 4, size: int = CELL) -> bytes:
    """Return a component's strongest examples side by side as one WebP.

    There may be fewer than ``count``.

    Parameters
    ----------
    size
        Side of a square in pixels.

    Raises
    ------
    LayerError
        If the component has no examples.
    DataError, StaleError
        If there are no thumbnails, and the images are missing or have changed.
    """
    examples = database.examples_of(row, count)
    if not examples:
        raise no_example(database, row, 0, 0)
    picture = Image.new("RGBA", (len(examples) * size, size))
    for index, example in enumerate(examples):
        side = size - (STRIP_GAP if index < len(examples) - 1 else 0)
        drawn = example_picture(database, example, size)
        picture.paste(drawn.crop((0, 0, side, size)), (index * size, 0))
    return encode_webp(picture, method=0)


GAP = 4
HEAD = 22
LINE = CELL + HEAD + GAP
MIDDLE = 28
TITLE = 30


def example_pictures(
    database: Database, row: int, count: int, mask: bool = False, originals: bool = False
) -> list[Image.Image]:
    """Return a component's strongest examples as squares of ``CELL`` pixels.

    Parameters
    ----------
    mask
        Whether to darken areas that the component does not respond to.
    originals
        Whether to make them from the images if there are no thumbnails; otherwise return none.

    Raises
    ------
    DataError, StaleError
        If an image is needed, and is missing or has changed.
    """
    if not (database.manifest.recipe.thumbnails or originals):
        return []
    examples = database.examples_of(row, count)
    return [example_picture(database, example, CELL, mask=mask) for example in examples]


@dataclass(frozen=True)
class Meter:
    """A value as a bar, with a mark at what it must exceed to stand out from noise."""

    value: float
    noise: float
    full: float
    """The value of a full bar."""


METER = 120, 9
"""Width and height of a bar, in pixels."""


def sheet(
    database: Database,
    rows: Sequence[int],
    columns: int = 10,
    captions: Sequence[str] | None = None,
    *,
    names: Sequence[str | None] | None = None,
    meters: Sequence[Meter] | None = None,
    title: str = "",
    mask: bool = False,
    ranks: Sequence[Sequence[int]] | None = None,
) -> Image.Image:
    """Draw one row of examples per component, strongest first.

    Parameters
    ----------
    rows
        Rows in ``components.parquet``.
    captions
        One text per row, after the component's name.
    names
        Labels, before the component's name.
    meters
        A bar per row, at its right; grey if it does not stand out.
    title
        A line above all rows.
    mask
        Whether to darken areas that the component does not respond to.
    ranks
        Which examples are drawn in each row; by default the strongest.

    Raises
    ------
    DataError, StaleError
        If the database has no thumbnails, and its images are missing or have changed.
    """
    above = GAP + TITLE * bool(title)
    picture = Image.new("RGB", (_width(columns), len(rows) * LINE + above), "white")
    if title:
        ImageDraw.Draw(picture).text((GAP, GAP), title, fill="black", font=font(16))
    for index, row in enumerate(rows):
        caption = f"  {captions[index]}" if captions else ""
        corner, chosen = (GAP, above + index * LINE), ranks[index] if ranks else range(columns)
        label = names[index] if names else None
        _draw_row(picture, corner, database, row, chosen[:columns], caption, mask, label)
        if meters:
            _draw_meter(picture, corner[1] + (HEAD - METER[1]) // 2, meters[index])
    return picture


def _draw_meter(picture: Image.Image, top: int, meter: Meter) -> None:
    """Draw a bar at the right edge."""
    draw, (width, height) = ImageDraw.Draw(picture), METER
    left = picture.width - GAP - width
    filled, mark = (
        left + round(width * min(max(value / meter.full, 0), 1))
        for value in (meter.value, meter.noise)
    )
    draw.rectangle((left, top, left + width, top + height), fill=EMPTY)
    if filled > left:
        colour = FULL if meter.value > meter.noise else SOFT
        draw.rectangle((left, top, filled, top + height), fill=colour)
    draw.rectangle((mark - 1, top - 3, mark, top + height + 3), fill=INK)


@dataclass(frozen=True)
class PairRow:
    """Rows of a pair of components of two databases, with their cosine and a caption each."""

    first: int
    second: int
    similarity: float
    captions: tuple[str, str] = ("", "")

    def swapped(self) -> PairRow:
        """Return the pair with its sides swapped."""
        return PairRow(
            self.second, self.first, self.similarity, (self.captions[1], self.captions[0])
        )


def pairs_sheet(
    left: tuple[str, Database],
    right: tuple[str, Database],
    sections: Sequence[tuple[str, Sequence[PairRow]]],
    columns: int = 6,
) -> Image.Image:
    """Draw titled lists of pairs, examples of one database left, of the other right.

    Raises
    ------
    DataError, StaleError
        If a database has no thumbnails, and its images are missing or have changed.
    """
    middle = _width(columns) + MIDDLE
    lines = sum(max(len(rows), 1) for _, rows in sections)
    height = LINE * lines + TITLE * (len(sections) + 1)
    picture = Image.new("RGB", (middle + _width(columns), height), "white")
    draw = ImageDraw.Draw(picture)
    for (name, _), x in ((left, GAP), (right, middle + GAP)):
        draw.text((x, 6), name, fill="black", font=font(16))
    top = TITLE
    for title, rows in sections:
        draw.line((0, top + 2, picture.width, top + 2), fill="lightgrey")
        draw.text((GAP, top + 7), title, fill="dimgrey", font=font(16))
        top += TITLE
        if not rows:
            draw.text((GAP, top + 4), "none", fill="dimgrey", font=font(13))
        for index, pair in enumerate(rows):
            first, second = (f"   {caption}" for caption in pair.captions)
            second += f"   cosine {pair.similarity:.3f}"
            y = top + index * LINE
            _draw_row(picture, (GAP, y), left[1], pair.first, range(columns), first)
            _draw_row(picture, (middle + GAP, y), right[1], pair.second, range(columns), second)
        top += max(len(rows), 1) * LINE
    return picture


def _width(columns: int) -> int:
    return columns * (CELL + GAP) + GAP


def _draw_row(
    picture: Image.Image,
    corner: tuple[int, int],
    database: Database,
    row: int,
    ranks: Sequence[int],
    caption: str,
    mask: bool = False,
    label: str | None = None,
) -> None:
    """Draw a component's label, name and caption, and below them the examples of some ranks."""
    draw, (left, top) = ImageDraw.Draw(picture), corner
    indent = 0.0
    if label is not None:
        draw.text((left, top + 2), label, fill="black", font=font(13))
        indent = draw.textlength(f"{label}   ", font=font(13))
    text = f"{database.component(row)}{caption}"
    draw.text((left + indent, top + 2), text, fill="dimgrey" if label else "black", font=font(13))
    examples = database.examples_of(row, max(ranks, default=-1) + 1)
    shown = [examples[rank] for rank in ranks if rank < len(examples)]
    pictures = [example_picture(database, example, CELL, mask=mask) for example in shown]
    if not pictures:
        draw.text((left, top + HEAD + 4), "no examples", fill="dimgrey", font=font(13))
    for column, square in enumerate(pictures):
        picture.paste(square, (left + column * (CELL + GAP), top + HEAD))


def image_strip(database: Database, samples: Sequence[int], size: int = CELL) -> bytes:
    """Return the images of samples side by side as one WebP, cut to squares of ``size`` pixels.

    Raises
    ------
    DataError, StaleError
        If an image is missing or has changed.
    """
    picture = Image.new("RGB", (len(samples) * size, size))
    for place, sample in enumerate(samples):
        square = ImageOps.fit(database.images.read(sample), (size, size))
        picture.paste(square, (place * size, 0))
    return encode_webp(picture)
