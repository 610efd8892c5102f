"""The marks of the example: Chinese characters, and controls with the same ink.

    python examples/carton/marks.py marks.png

A mark is a mask of 256 x 256 pixels, 0 to 1, drawn in white (one in black) at 50 %. The font is
IPAex Gothic from the package matplotlib-fontja. It is a Japanese font: of the Chinese characters
it has those that Japanese and Traditional Chinese share, and the marks use no others.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

SIDE = 256
"""Side of a photograph in pixels. The model sees the middle 224."""
HEIGHT = 36
"""Font size in pixels."""
OPACITY = 0.5
TILE = 6
"""Side of the tiles that are shuffled."""
CHINESE = "捷徑源電商"
OTHER = "廠家批發價"
KANA = "オンライン"
KANA_LINES = "オンライン\nインテリア"
LATIN = "Stock photo"
LATIN_LINES = "Stock photo\nFast delivery"

Mask = np.ndarray
"""float64[256, 256], from 0 (clear) to 1."""


@dataclass(frozen=True)
class Layer:
    """A mask and its grey level."""

    mask: Mask
    level: int = 255

    @property
    def ink(self) -> float:
        """Sum of the mask over the pixels that the model sees."""
        edge = (SIDE - 224) // 2
        return float(self.mask[edge:-edge, edge:-edge].sum())


def font_file() -> Path:
    """Return the font of matplotlib-fontja, without importing it (it changes matplotlib's)."""
    spec = importlib.util.find_spec("matplotlib_fontja")
    if spec is None or spec.origin is None:
        raise SystemExit("The font is not installed: pip install matplotlib-fontja")
    return Path(spec.origin).parent / "fonts" / "ipaexg.ttf"


def missing(text: str) -> list[str]:
    """Return the characters for which the font would draw an empty box."""
    glyphs = TTFont(font_file()).getBestCmap()
    return [character for character in text if character != "\n" and ord(character) not in glyphs]


def text_mask(text: str, size: float = HEIGHT, place: tuple[float, float] = (0.5, 0.5)) -> Mask:
    """Draw a text with its middle at ``place``."""
    if absent := missing(text):
        raise ValueError(f"The font has no glyphs for {' '.join(absent)}.")
    page = Image.new("L", (SIDE, SIDE))
    position = (SIDE * place[0], SIDE * place[1])
    font = ImageFont.truetype(str(font_file()), size)
    ImageDraw.Draw(page).text(position, text, 255, font, anchor="mm", align="center", spacing=2)
    return np.asarray(page) / 255


def with_ink(draw: Callable[[float], Mask], ink: float, low: float, high: float) -> Mask:
    """Return the drawing whose ink is nearest to ``ink``, by bisection of its argument."""
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if Layer(draw(middle)).ink < ink else (low, middle)
    return draw(high)


def strokes_mask(like: Mask, seed: int = 0) -> Mask:
    """Draw straight strokes of random place, direction and length, with the ink of ``like``."""
    rows, columns = (np.flatnonzero(like.any(axis)) for axis in (1, 0))
    rng = np.random.default_rng(seed)
    page = Image.new("L", (SIDE * 4, SIDE * 4))
    pen = ImageDraw.Draw(page)
    for _ in range(2000):
        start = rng.uniform((columns[0], rows[0]), (columns[-1], rows[-1]))
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(6, 30)
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        end = end.clip((columns[0], rows[0]), (columns[-1], rows[-1]))
        pen.line([*(start * 4), *(end * 4)], 255, width=10)  # 2.5 pixels, as in the font
        mask = np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255
        if mask.sum() >= like.sum():
            return mask
    raise ValueError("The strokes do not reach the ink.")


def shuffled_mask(like: Mask, seed: int = 0) -> Mask:
    """Cut the mark into tiles and shuffle them inside its box; the ink stays the same."""
    rows, columns = (np.flatnonzero(like.any(axis)) for axis in (1, 0))
    top, left = rows[0], columns[0]
    down, across = (-(-(len_[-1] - len_[0] + 1) // TILE) for len_ in (rows, columns))
    box = (slice(top, top + down * TILE), slice(left, left + across * TILE))
    tiles = like[box].reshape(down, TILE, across, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)
    mixed = np.random.default_rng(seed).permutation(tiles)
    mask = np.zeros_like(like)
    mask[box] = mixed.reshape(down, across, TILE, TILE).swapaxes(1, 2).reshape(like[box].shape)
    return mask


@cache
def masks() -> dict[str, Layer]:
    """Return the marks by name, the Chinese one first."""
    chinese = text_mask(CHINESE)
    ink = Layer(chinese).ink
    drawn = {
        "chinese": chinese,
        "other-chinese": text_mask(OTHER),
        "small-chinese": text_mask(CHINESE, HEIGHT / 2, (0.62, 0.86)),
        "turned-chinese": chinese[::-1, ::-1],
        "kana": text_mask(KANA),
        "kana-lines": with_ink(lambda size: text_mask(KANA_LINES, size), ink, 20, 60),
        "latin": text_mask(LATIN),
        "latin-lines": with_ink(lambda size: text_mask(LATIN_LINES, size), ink, 20, 60),
        "strokes": strokes_mask(chinese),
        "shuffled": shuffled_mask(chinese),
    }
    return {**{name: Layer(mask) for name, mask in drawn.items()},
            "black-chinese": Layer(chinese, 0)}  # fmt: skip


def insert(picture: Image.Image, layer: Layer) -> Image.Image:
    """Draw a mark onto a photograph of 256 x 256 pixels."""
    opacity = OPACITY * layer.mask[..., None]
    pixels = np.asarray(picture.convert("RGB")) * (1 - opacity) + layer.level * opacity
    return Image.fromarray(pixels.round().astype(np.uint8))


def main() -> None:
    """Write a picture of all marks."""
    layers = masks()
    sheet = Image.new("RGB", (SIDE * 4, SIDE * -(-len(layers) // 4)), (90, 110, 130))
    for number, (name, layer) in enumerate(layers.items()):
        tile = insert(Image.new("RGB", (SIDE, SIDE), (90, 110, 130)), layer)
        ImageDraw.Draw(tile).text((8, 8), f"{name}: ink {layer.ink:.0f}", "white")
        sheet.paste(tile, (number % 4 * SIDE, number // 4 * SIDE))
    sheet.save(sys.argv[1])


if __name__ == "__main__":
    main()
