"""Contact sheets: rows of example crops, of one database or of pairs of two (paper, Fig. E.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from semlens.draw.pictures import font
from semlens.draw.strip import THUMBNAIL, small_crop
from semlens.store.reader import Database

CELL = THUMBNAIL
GAP = 4
HEAD = 22
LINE = CELL + HEAD + GAP
MIDDLE = 28
TITLE = 30


def example_pictures(
    database: Database, row: int, count: int, mask: bool = False, originals: bool = False
) -> list[Image.Image]:
    """Return the strongest examples' crops of a component.

    Parameters
    ----------
    mask
        Whether to darken what the component does not react to.
    originals
        Whether to cut them from the images where there are no thumbnails; else there are none.

    Raises
    ------
    DataError, StaleError
        If an image is needed, and is not there or has changed.
    """
    if not (database.manifest.recipe.thumbnails or originals):
        return []
    examples = database.examples_of(row, count)
    return [small_crop(database, example, mask=mask) for example in examples]


def sheet(
    database: Database,
    rows: Sequence[int],
    columns: int = 10,
    captions: Sequence[str] | None = None,
    *,
    mask: bool = False,
) -> Image.Image:
    """Draw the examples of components, strongest first from left to right.

    Parameters
    ----------
    rows
        Rows in ``components.parquet``.
    captions
        A text per row, after the component's name.
    mask
        Whether to darken what the component does not react to.

    Raises
    ------
    DataError, StaleError
        If the database has no thumbnails, and its images are not there or have changed.
    """
    picture = Image.new("RGB", (_width(columns), len(rows) * LINE + GAP), "white")
    for place, row in enumerate(rows):
        caption = f"  {captions[place]}" if captions else ""
        _draw_row(picture, (GAP, GAP + place * LINE), database, row, columns, caption, mask)
    return picture


@dataclass(frozen=True)
class PairRow:
    """A component of each database, by row, with their cosine and a word on each."""

    first: int
    second: int
    similarity: float
    captions: tuple[str, str] = ("", "")

    def turned(self) -> PairRow:
        """Return the same pair the other way round."""
        return PairRow(
            self.second, self.first, self.similarity, (self.captions[1], self.captions[0])
        )


def pairs_sheet(
    left: tuple[str, Database],
    right: tuple[str, Database],
    parts: Sequence[tuple[str, Sequence[PairRow]]],
    columns: int = 6,
) -> Image.Image:
    """Draw titled lists of pairs, the examples of one database left, of the other right.

    Raises
    ------
    DataError, StaleError
        If a database has no thumbnails, and its images are not there or have changed.
    """
    middle = _width(columns) + MIDDLE
    lines = sum(max(len(rows), 1) for _, rows in parts)
    height = LINE * lines + TITLE * (len(parts) + 1)
    picture = Image.new("RGB", (middle + _width(columns), height), "white")
    draw = ImageDraw.Draw(picture)
    for (name, _), start in ((left, GAP), (right, middle + GAP)):
        draw.text((start, 6), name, fill="black", font=font(16))
    top = TITLE
    for title, rows in parts:
        draw.line((0, top + 2, picture.width, top + 2), fill="lightgrey")
        draw.text((GAP, top + 7), title, fill="dimgrey", font=font(16))
        top += TITLE
        if not rows:
            draw.text((GAP, top + 4), "none", fill="dimgrey", font=font(13))
        for place, pair in enumerate(rows):
            first, second = (f"   {caption}" for caption in pair.captions)
            second += f"   cosine {pair.similarity:.3f}"
            at = top + place * LINE
            _draw_row(picture, (GAP, at), left[1], pair.first, columns, first)
            _draw_row(picture, (middle + GAP, at), right[1], pair.second, columns, second)
        top += max(len(rows), 1) * LINE
    return picture


def _width(columns: int) -> int:
    return columns * (CELL + GAP) + GAP


def _draw_row(
    picture: Image.Image,
    corner: tuple[int, int],
    database: Database,
    row: int,
    columns: int,
    caption: str,
    mask: bool = False,
) -> None:
    """Draw a component's name and caption, and below them its examples."""
    draw, (left, top) = ImageDraw.Draw(picture), corner
    draw.text((left, top + 2), f"{database.component(row)}{caption}", fill="black", font=font(13))
    crops = example_pictures(database, row, columns, mask, originals=True)
    if not crops:
        draw.text((left, top + HEAD + 4), "no examples", fill="dimgrey", font=font(13))
    for column, crop in enumerate(crops):
        square = ImageOps.pad(crop, (CELL, CELL), Image.Resampling.BILINEAR, "white")
        picture.paste(square, (left + column * (CELL + GAP), top + HEAD))
