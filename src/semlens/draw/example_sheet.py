"""Pictures of examples: strips of crops, single crops, whole images, and contact sheets.

A sheet has one row of examples per component, or per pair of two databases (paper, Fig. E.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageOps

from semlens.draw.encode_images import decode_image, encode_webp, font
from semlens.draw.heatmap_mask import apply_mask, unpack_mask
from semlens.errors import DataError, ImageError, LayerError, StaleError
from semlens.store.examples import Example
from semlens.store.reader import Database
from semlens.types import Box

View = Literal["crop", "masked", "whole"]
THUMBNAIL, CROP, WHOLE = 96, 224, 480
"""Maximum longer side of a stored thumbnail, a crop and a whole image, in pixels."""
STRIP_GAP = 2
"""Transparent pixels between the crops of a strip."""


def example_strip(database: Database, row: int, count: int = 4, size: int = THUMBNAIL) -> bytes:
    """Return a component's strongest examples side by side as one WebP.

    Each is cropped to a square. There may be fewer than ``count``.

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
        raise _no_example(database, row, 0, 0)
    picture = Image.new("RGBA", (len(examples) * size, size))
    for index, example in enumerate(examples):
        crop = small_crop(database, example, size)
        square = (size - (STRIP_GAP if index < len(examples) - 1 else 0), size)
        fitted = ImageOps.fit(crop, square, Image.Resampling.BILINEAR)
        picture.paste(fitted, (index * size, 0))
    return encode_webp(picture, method=0)


def small_crop(
    database: Database,
    example: Example,
    size: int = THUMBNAIL,
    *,
    mask: bool = False,
) -> Image.Image:
    """Return an example's thumbnail, or else its crop from the original image.

    Parameters
    ----------
    size
        Maximum longer side of a crop, in pixels.
    mask
        Whether to darken areas that the component does not respond to.

    Raises
    ------
    DataError, StaleError
        If there is no thumbnail, and the original is missing or has changed.
    """
    stored = database.thumbnail(example.crop)
    crop = _crop_original(database, example, size) if stored is None else decode_image(stored)
    return _apply_mask(crop, example) if mask else crop


def crop_picture(database: Database, row: int, place: int, view: View = "crop") -> bytes:
    """Return one example of a component as a WebP.

    Parameters
    ----------
    place
        Position of the example; 0 is the strongest.
    view
        ``crop``: cropped from the original if it is available and has more detail than the
        stored thumbnail. ``masked``: the same, with areas darkened that the component does
        not respond to (paper, H.1). ``whole``: the original with the crop's box.

    Raises
    ------
    LayerError
        If the component has no such example.
    DataError, StaleError
        If the original is needed, and is missing or has changed.
    """
    examples = database.examples_of(row)
    if not 0 <= place < len(examples):
        raise _no_example(database, row, place, len(examples))
    example = examples[place]
    if view == "whole":
        picture = _draw_box(database.images.read(example.sample), example.box)
    else:
        crop = _crop_or_thumbnail(database, example)
        if isinstance(crop, bytes) and view == "crop":
            return crop
        picture = decode_image(crop) if isinstance(crop, bytes) else crop
        if view == "masked":
            picture = _apply_mask(picture, example)
    return encode_webp(picture, method=0)


def _crop_or_thumbnail(database: Database, example: Example) -> Image.Image | bytes:
    """Return the crop from the original, or the stored thumbnail if it has no less detail.

    The thumbnail is also the fallback if the original cannot be read.
    """
    stored = database.thumbnail(example.crop)
    left, top, right, bottom = example.box.as_tuple()
    if stored is not None and max(right - left, bottom - top) <= THUMBNAIL:
        return stored
    try:
        return _crop_original(database, example, CROP)
    except (DataError, ImageError, StaleError):
        if stored is None:
            raise
        return stored


def _crop_original(database: Database, example: Example, size: int) -> Image.Image:
    crop = database.images.read(example.sample).crop(example.box.as_tuple())
    crop.thumbnail((size, size))
    return crop


def _apply_mask(crop: Image.Image, example: Example) -> Image.Image:
    if example.mask is None:
        return crop
    return apply_mask(crop, unpack_mask(example.mask), threshold=0.5)


def _draw_box(original: Image.Image, box: Box) -> Image.Image:
    """Draw the box as a white line on a wider black one, which is visible on any picture."""
    picture = original.copy()
    picture.thumbnail((WHOLE, WHOLE))
    scale = max(picture.size) / max(original.size)
    left, top, right, bottom = (round(side * scale) for side in box.as_tuple())
    frame = (left, top, max(left, right - 1), max(top, bottom - 1))
    draw = ImageDraw.Draw(picture)
    for colour, width in (("black", 4), ("white", 2)):
        draw.rectangle(frame, outline=colour, width=width)
    return picture


def _no_example(database: Database, row: int, place: int, count: int) -> LayerError:
    return LayerError(
        f"Component '{database.component(row)}' has no example {place}.",
        f"It has {count}, counted from 0." if count else "No image activates it.",
        "Choose another example or component.",
    )


CELL = THUMBNAIL
GAP = 4
HEAD = 22
LINE = CELL + HEAD + GAP
MIDDLE = 28
TITLE = 30


def example_pictures(
    database: Database, row: int, count: int, mask: bool = False, originals: bool = False
) -> list[Image.Image]:
    """Return crops of a component's strongest examples.

    Parameters
    ----------
    mask
        Whether to darken areas that the component does not respond to.
    originals
        Whether to crop from the images if there are no thumbnails; otherwise return none.

    Raises
    ------
    DataError, StaleError
        If an image is needed, and is missing or has changed.
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
    """Draw one row of examples per component, strongest first.

    Parameters
    ----------
    rows
        Rows in ``components.parquet``.
    captions
        One text per row, after the component's name.
    mask
        Whether to darken areas that the component does not respond to.

    Raises
    ------
    DataError, StaleError
        If the database has no thumbnails, and its images are missing or have changed.
    """
    picture = Image.new("RGB", (_width(columns), len(rows) * LINE + GAP), "white")
    for index, row in enumerate(rows):
        caption = f"  {captions[index]}" if captions else ""
        _draw_row(picture, (GAP, GAP + index * LINE), database, row, columns, caption, mask)
    return picture


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
            _draw_row(picture, (GAP, y), left[1], pair.first, columns, first)
            _draw_row(picture, (middle + GAP, y), right[1], pair.second, columns, second)
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
