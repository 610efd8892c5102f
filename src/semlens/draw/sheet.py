"""A contact sheet: one row of example crops per component."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from semlens.data.images import Images
from semlens.data.load import load_images
from semlens.draw.mask import masked, unpacked
from semlens.store.reader import Database

CELL = 96
GAP = 4
HEAD = 22


def example_pictures(
    database: Database, row: int, count: int, images: Images | None = None, mask: bool = False
) -> list[Image.Image]:
    """Return the strongest examples' crops of a component.

    Thumbnails are taken where there are any; else the crops are cut from ``images``. With
    ``mask`` they are darkened where the component does not react.
    """
    pictures: list[Image.Image] = []
    for example in database.examples_of(row, count):
        webp = database.thumbnail(example.crop)
        if webp is not None:
            picture = Image.open(io.BytesIO(webp)).convert("RGB")
        elif images is not None:
            picture = images.read(example.sample).crop(example.box.as_tuple())
            picture.thumbnail((CELL, CELL))
        else:
            continue
        if mask and example.mask is not None:
            picture = masked(picture, unpacked(example.mask), threshold=0.5)
        pictures.append(picture)
    return pictures


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
    StaleError
        If the database has no thumbnails and its images have changed.
    """
    images = None
    if not database.manifest.recipe.thumbnails:
        images = load_images(database.manifest.data.spec)
        database.check_images(images)
    width = columns * (CELL + GAP) + GAP
    picture = Image.new("RGB", (width, len(rows) * (CELL + HEAD + GAP) + GAP), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=13)
    for line, row in enumerate(rows):
        top = GAP + line * (CELL + HEAD + GAP)
        caption = f"  {captions[line]}" if captions else ""
        draw.text((GAP, top + 2), f"{database.component(row)}{caption}", fill="black", font=font)
        crops = example_pictures(database, row, columns, images, mask)
        if not crops:
            draw.text((GAP, top + HEAD + 4), "no examples", fill="grey", font=font)
        for column, crop in enumerate(crops):
            left = GAP + column * (CELL + GAP) + (CELL - crop.width) // 2
            picture.paste(crop, (left, top + HEAD + (CELL - crop.height) // 2))
    return picture
