"""Pairs of components of two databases with their examples, side by side (paper, Fig. E.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from semlens.data.images import Images
from semlens.data.load import load_images
from semlens.draw.sheet import CELL, GAP, HEAD, example_pictures
from semlens.store.reader import Database

MIDDLE = 28
TITLE = 30


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
    StaleError
        If a database has no thumbnails and its images have changed.
    """
    side = columns * (CELL + GAP) + GAP
    width = 2 * side + MIDDLE
    lines = sum(max(len(rows), 1) for _, rows in parts)
    height = (CELL + HEAD + GAP) * lines + TITLE * (len(parts) + 1)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(size=16), ImageFont.load_default(size=13)
    sources = [(database, _images(database)) for _, database in (left, right)]
    for (name, _), start in zip((left, right), (0, side + MIDDLE), strict=True):
        draw.text((start + GAP, 6), name, fill="#1b2430", font=large)
    top = TITLE
    for title, rows in parts:
        draw.line((0, top + 2, width, top + 2), fill="#c3ccd8")
        draw.text((GAP, top + 7), title, fill="#5d6978", font=large)
        top += TITLE
        if not rows:
            draw.text((GAP, top + 4), "none", fill="#5d6978", font=small)
        for pair in rows:
            for number, row in enumerate((pair.first, pair.second)):
                database, images = sources[number]
                start = number * (side + MIDDLE)
                caption = f"{database.component(row)}   {pair.captions[number]}"
                if number == 1:
                    caption += f"   cosine {pair.similarity:.3f}"
                draw.text((start + GAP, top + 2), caption, fill="black", font=small)
                for column, crop in enumerate(example_pictures(database, row, columns, images)):
                    at = start + GAP + column * (CELL + GAP) + (CELL - crop.width) // 2
                    picture.paste(crop, (at, top + HEAD + (CELL - crop.height) // 2))
            top += CELL + HEAD + GAP
        top += 0 if rows else CELL + HEAD + GAP
    return picture


def _images(database: Database) -> Images | None:
    if database.manifest.recipe.thumbnails:
        return None
    images = load_images(database.manifest.data.spec)
    database.check_images(images)
    return images
