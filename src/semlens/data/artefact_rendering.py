"""What an inserted artefact is made of: colours, places, soft masks to blend by, cut-outs.

Cut-outs on disk are pictures whose alpha says, softly, where the artefact is.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageColor, ImageDraw, ImageFont

from semlens.errors import DataError

Colour = tuple[int, int, int]
"""Red, green, blue from 0 to 255."""

Place = Literal[
    "random", "top", "bottom", "centre", "top-left", "top-right", "bottom-left", "bottom-right"
]
"""Where an artefact lies; ``top`` and ``bottom`` leave the horizontal place to the seed."""

PLACES: tuple[str, ...] = get_args(Place)
MARGIN = 0.03
"""Of the shorter side, that an artefact keeps from the border."""
LEAST = 1.0
"""Smallest font size, in pixels."""
SUFFIXES = (".png", ".webp")
FAINT = 0.1
"""Share of the largest alpha below which a cut-out's border is left off when it is moved."""


def parse_colour(text: str) -> Colour:
    """Read ``R,G,B``, ``#rrggbb`` or a colour's name.

    Raises
    ------
    DataError
        If it is none of them.
    """
    try:
        found = ImageColor.getrgb(f"rgb({text})" if "," in text else text.strip())[:3]
        if max(found) > 255:
            raise ValueError(text)
    except ValueError as error:
        raise DataError(
            f"'{text}' is no colour.",
            "Expected R,G,B from 0 to 255, #rrggbb or a name such as red.",
            "Write it so.",
        ) from error
    return found


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
        A: a picture of the same size, or one colour.
    mask
        M in [0, 1], by pixel or everywhere the same.
    """
    below = np.asarray(image, np.float32)
    above = np.asarray(over, np.float32)
    share = mask[:, :, None] if isinstance(mask, np.ndarray) else np.float32(mask)
    mixed = below * (1 - share) + above * share
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def corner(
    place: str, inner: tuple[int, int], outer: tuple[int, int], draw: np.random.Generator
) -> tuple[int, int]:
    """Return left and top of something of a width and height in a larger picture.

    What the place leaves open is drawn; what does not fit starts at the border.
    """
    margin = round(MARGIN * min(outer))
    drawn = draw.random(2)
    across: list[int] = []
    for axis, (low, high) in enumerate((("left", "right"), ("top", "bottom"))):
        free = outer[axis] - inner[axis]
        near = min(margin, max(free, 0) // 2)
        far = max(free - near, near)
        named = {low: near, high: far, "centre": max(free, 0) // 2}
        somewhere = near + round(float(drawn[axis]) * (far - near))
        across.append(next((named[word] for word in named if word in place), somewhere))
    return across[0], across[1]


def stripes(
    size: tuple[int, int], period: float, angle: float, phase: float
) -> Float32[np.ndarray, "h w"]:
    """Return soft stripes in [0, 1]: half of each period is free.

    Parameters
    ----------
    size
        Width and height.
    period
        In pixels.
    angle
        Of the stripes, in degrees; 0 is horizontal.
    phase
        In periods.
    """
    width, height = size
    down, right = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = np.deg2rad(angle)
    across = (down * np.cos(turn) + right * np.sin(turn)) / period + phase
    return np.clip(2 * np.sin(2 * np.pi * across), 0, 1).astype(np.float32)


@lru_cache(maxsize=1)
def default_font() -> str:
    """Return the path of DejaVu Sans Bold, which matplotlib brings along."""
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf")


@lru_cache(maxsize=64)
def check_words(words: str, font: str) -> None:
    """Refuse words that a font cannot write.

    Raises
    ------
    DataError
        If the font cannot be read, or lacks a character.
    """
    from matplotlib.ft2font import FT2Font

    if not words.strip() or "\n" in words:
        raise DataError(
            f"The text {words!r} cannot be inserted.",
            "Expected one line that is not empty.",
            "Give some words: text:© stock",
        )
    try:
        known = FT2Font(font).get_charmap()
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"The font '{font}' cannot be read ({error}).",
            "Expected a TrueType or OpenType file.",
            "Check the path.",
        ) from error
    lacking = sorted({sign for sign in words if ord(sign) not in known})
    if lacking:
        raise DataError(
            f"The font '{Path(font).name}' has no {' '.join(lacking)}.",
            "Expected characters that it can draw.",
            "Choose another font with font=FILE, or other words.",
        )


def written(
    words: str,
    font: str,
    size: float,
    limit: int,
    fill: Colour,
    outline: Colour | None,
) -> Image.Image:
    """Draw words as RGBA, as small as it takes to be no wider than ``limit``.

    Parameters
    ----------
    size
        Of the font, in pixels.
    limit
        Width in pixels.
    """
    while True:
        face = ImageFont.truetype(font, max(size, LEAST))
        stroke = 0 if outline is None else max(1, round(size / 14))
        left, top, right, bottom = face.getbbox(words, stroke_width=stroke)
        if right - left <= limit or size <= LEAST:
            break
        size = max(LEAST, min(size - 0.5, size * limit / (right - left)))
    picture = Image.new("RGBA", (int(right - left) + 1, int(bottom - top) + 1), (*fill, 0))
    ImageDraw.Draw(picture).text(
        (-left, -top), words, fill=(*fill, 255), font=face, stroke_width=stroke,
        stroke_fill=None if outline is None else (*outline, 255),
    )  # fmt: skip
    return picture


def pasted(
    image: Image.Image, piece: Image.Image, place: tuple[int, int], opacity: float = 1.0
) -> Image.Image:
    """Blend an RGBA piece into an image, its left top corner at ``place``; the rest is cut off."""
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    layer.paste(piece, place)
    mask = np.asarray(layer.getchannel("A"), np.float32) * (opacity / 255)
    return blend(image, layer.convert("RGB"), mask)


def cutout_paths(path: Path) -> list[Path]:
    """Return the cut-outs of a folder, sorted, or the one file.

    Raises
    ------
    DataError
        If there are none.
    """
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise DataError(
            f"'{path}' holds no cut-outs.",
            f"Expected a file or a folder of files that end in {', '.join(SUFFIXES)}.",
            "Make some with 'semlens cutout'.",
        )
    return found


def read_cutout(path: Path) -> Image.Image:
    """Return a cut-out as RGBA.

    Raises
    ------
    DataError
        If it cannot be read, has no alpha, or is nowhere opaque.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _decoded(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _decoded(path: Path, changed: int, size: int) -> Image.Image:
    """Decode a cut-out; time and size are there so that a file that was replaced is read again."""
    try:
        with Image.open(path) as picture:
            if "A" not in picture.getbands() and "transparency" not in picture.info:
                raise DataError(
                    f"'{path.name}' has no alpha channel.",
                    "Expected an RGBA picture whose alpha is the artefact's mask.",
                    "Make cut-outs with 'semlens cutout', or add a mask in a paint program.",
                )
            found = picture.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if found.getchannel("A").getbbox() is None:
        raise DataError(
            f"'{path.name}' is transparent everywhere.",
            "Expected a mask above zero somewhere.",
            "Remove the file.",
        )
    return found


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"The cut-out '{path}' cannot be read ({type(error).__name__}).",
        "Expected a whole PNG or WebP file.",
        "Remove it, or make it again.",
    )


def trimmed(piece: Image.Image) -> Image.Image:
    """Cut the faint border off a cut-out."""
    alpha = np.asarray(piece.getchannel("A"))
    strong = alpha >= FAINT * alpha.max()
    rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return piece.crop((left, int(rows[0]), right, int(rows[-1]) + 1))
