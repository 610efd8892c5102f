"""Drawing of inserted artefacts: colours, positions, soft masks, text, and cut-out files.

A cut-out file is an image whose alpha channel is the soft mask of the artefact.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageColor, ImageDraw, ImageFont

from semlens.errors import DataError
from semlens.regular_files import is_file, read_bytes

Colour = tuple[int, int, int]
"""Red, green, blue from 0 to 255."""

Place = Literal[
    "random", "top", "bottom", "centre", "top-left", "top-right", "bottom-left", "bottom-right"
]
"""Position of an artefact; for ``top`` and ``bottom`` the seed sets the horizontal position."""

PLACES: tuple[str, ...] = get_args(Place)
MARGIN = 0.03
"""Distance of an artefact from the border, as a fraction of the shorter side."""
MIN_FONT_SIZE = 1.0
"""In pixels."""
SUFFIXES = (".png", ".webp")
FAINT_ALPHA = 0.1
"""Fraction of the maximal alpha below which the border of a cut-out is trimmed."""


def parse_colour(text: str) -> Colour:
    """Parse ``R,G,B``, ``#rrggbb`` or the name of a colour.

    Raises
    ------
    DataError
        If the text has none of these forms.
    """
    try:
        colour = ImageColor.getrgb(f"rgb({text})" if "," in text else text.strip())[:3]
        if max(colour) > 255:
            raise ValueError(text)
    except ValueError as error:
        raise DataError(
            f"'{text}' is not a valid colour.",
            "Expected R,G,B from 0 to 255, #rrggbb or a name such as red.",
            "Use one of these forms.",
        ) from error
    return colour


def colour_text(colour: Colour) -> str:
    """Return a colour as ``R,G,B``."""
    return ",".join(map(str, colour))


def blend(
    image: Image.Image, over: Image.Image | Colour, mask: Float32[np.ndarray, "h w"] | float
) -> Image.Image:
    """Return ``D (1 - M) + A M``, rounded (paper, F.2.3, Eq. 4).

    Parameters
    ----------
    image
        D, RGB.
    over
        A: an image of the same size, or one colour.
    mask
        M in [0, 1], per pixel or one value.
    """
    below = np.asarray(image, np.float32)
    above = np.asarray(over, np.float32)
    share = mask[:, :, None] if isinstance(mask, np.ndarray) else np.float32(mask)
    mixed = below * (1 - share) + above * share
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def top_left_corner(
    place: str, piece: tuple[int, int], image: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """Return left and top of a piece in an image, given both sizes as (width, height).

    A coordinate that ``place`` does not fix is random. A piece that does not fit starts at the
    border.
    """
    margin = round(MARGIN * min(image))
    fractions = rng.random(2)
    corner: list[int] = []
    for axis, (low, high) in enumerate((("left", "right"), ("top", "bottom"))):
        free = image[axis] - piece[axis]
        first = min(margin, max(free, 0) // 2)
        last = max(free - first, first)
        fixed = {low: first, high: last, "centre": max(free, 0) // 2}
        random = first + round(float(fractions[axis]) * (last - first))
        corner.append(next((fixed[word] for word in fixed if word in place), random))
    return corner[0], corner[1]


def stripes(
    size: tuple[int, int], period: float, angle: float, phase: float
) -> Float32[np.ndarray, "h w"]:
    """Return soft stripes in [0, 1]; half of each period is zero.

    Parameters
    ----------
    size
        Width and height.
    period
        In pixels.
    angle
        Of the stripes, in degrees; 0 is horizontal.
    phase
        Offset in periods.
    """
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radians = np.deg2rad(angle)
    # distance across the stripes in periods; clipping the sine leaves every other half wave
    periods = (y * np.cos(radians) + x * np.sin(radians)) / period + phase
    return np.clip(2 * np.sin(2 * np.pi * periods), 0, 1).astype(np.float32)


@lru_cache(maxsize=1)
def default_font() -> str:
    """Return the path of DejaVu Sans Bold, which is part of matplotlib."""
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf")


@lru_cache(maxsize=64)
def check_words(words: str, font: str) -> None:
    """Refuse words that a font cannot draw.

    Raises
    ------
    DataError
        If the font cannot be read or has no glyph for a character.
    """
    from matplotlib.ft2font import FT2Font

    if not words.strip() or "\n" in words:
        raise DataError(
            f"The text {words!r} cannot be inserted.",
            "Expected one line that is not empty.",
            "Add words, such as text:© stock",
        )
    try:
        glyphs = FT2Font(font).get_charmap()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Cannot read the font '{font}' ({error}).",
            "Expected a TrueType or OpenType file.",
            "Check the path.",
        ) from error
    missing = sorted({character for character in words if ord(character) not in glyphs})
    if missing:
        raise DataError(
            f"The font '{Path(font).name}' has no glyph for {' '.join(missing)}.",
            "Expected characters that the font can draw.",
            "Choose another font with font=FILE, or change the words.",
        )


def draw_text(
    words: str,
    font: str,
    size: float,
    max_width: int,
    fill: Colour,
    outline: Colour | None,
) -> Image.Image:
    """Draw words as RGBA; ``size`` in pixels is reduced until they fit in ``max_width``."""
    while True:
        face = ImageFont.truetype(font, max(size, MIN_FONT_SIZE))
        stroke = 0 if outline is None else max(1, round(size / 14))
        left, top, right, bottom = face.getbbox(words, stroke_width=stroke)
        if right - left <= max_width or size <= MIN_FONT_SIZE:
            break
        size = max(MIN_FONT_SIZE, min(size - 0.5, size * max_width / (right - left)))
    picture = Image.new("RGBA", (int(right - left) + 1, int(bottom - top) + 1), (*fill, 0))
    ImageDraw.Draw(picture).text(
        (-left, -top), words, fill=(*fill, 255), font=face, stroke_width=stroke,
        stroke_fill=None if outline is None else (*outline, 255),
    )  # fmt: skip
    return picture


def paste_piece(
    image: Image.Image, piece: Image.Image, corner: tuple[int, int], opacity: float = 1.0
) -> Image.Image:
    """Blend an RGBA piece into an image at its top left ``corner``, cropped to the image."""
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    layer.paste(piece, corner)
    mask = np.asarray(layer.getchannel("A"), np.float32) * (opacity / 255)
    return blend(image, layer.convert("RGB"), mask)


def cutout_paths(path: Path) -> list[Path]:
    """Return the sorted cut-out files of a folder, or the one file.

    Raises
    ------
    DataError
        If there is none.
    """
    if is_file(path):
        return [path]
    paths = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise DataError(
            f"'{path}' contains no cut-outs.",
            f"Expected a file or a folder of files that end in {', '.join(SUFFIXES)}.",
            "Create cut-outs with 'semlens correct cut-out'.",
        )
    return paths


def read_cutout(path: Path) -> Image.Image:
    """Return a cut-out as RGBA.

    Raises
    ------
    DataError
        If it cannot be read, has no alpha channel, or is fully transparent.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable_error(path, error) from error
    return _decode(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _decode(path: Path, mtime: int, size: int) -> Image.Image:
    """Decode a cut-out; time and size are part of the cache key, so a changed file is reread."""
    try:
        with Image.open(io.BytesIO(read_bytes(path))) as picture:
            if "A" not in picture.getbands() and "transparency" not in picture.info:
                raise DataError(
                    f"'{path.name}' has no alpha channel.",
                    "Expected an RGBA image whose alpha channel is the mask of the artefact.",
                    "Cut it out with 'semlens correct cut-out', or add a mask in an image editor.",
                )
            cutout = picture.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable_error(path, error) from error
    if cutout.getchannel("A").getbbox() is None:
        raise DataError(
            f"'{path.name}' is fully transparent.",
            "Expected a mask with values above zero.",
            "Remove the file.",
        )
    return cutout


def _unreadable_error(path: Path, error: Exception) -> DataError:
    return DataError(
        f"Cannot read the cut-out '{path}' ({type(error).__name__}).",
        "Expected an intact PNG or WebP file.",
        "Remove the file, or create it again.",
    )


def trim_faint_border(piece: Image.Image) -> Image.Image:
    """Crop a cut-out to the pixels that are not faint."""
    alpha = np.asarray(piece.getchannel("A"))
    visible = alpha >= FAINT_ALPHA * alpha.max()
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return piece.crop((left, int(rows[0]), right, int(rows[-1]) + 1))
