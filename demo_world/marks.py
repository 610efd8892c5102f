"""The artefact that a world plants on one class: RGBA overlays of one kind.

``text`` is a stock-photo mark with a font family and words that the overlay bank of the foundation
model never uses; ``patch`` a coloured square sticker; ``texture`` stripes, like a striped
background, that fade out in the middle, where the drawing is; ``rain`` drops around it;
``background`` one colour that fades out in the middle; ``border`` a frame along the edges; ``cast``
one colour over the whole image.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo_world.overlays import BANK_WORDS, MARK_FAMILIES, NAMES
from demo_world.workspace import SIZE, Workspace

KINDS = ("text", "patch", "texture", "rain", "background", "border", "cast")


@dataclass(frozen=True)
class MarkSpec:
    """Appearance of the artefact.

    Parameters
    ----------
    font
        File of the mark families below Debian's font folder; empty for Pillow's own font.
    band
        Range of the top edge of a text or patch, in pixels.
    columns
        Range of the left edge of a patch; by default anywhere in the image.
    side
        Range of the sides of a patch.
    """

    kind: str = "text"
    description: str = "stock-photo text mark, white with a dark edge, near the bottom edge"
    texts: tuple[str, ...] = ("© fotolux", "fotolux ®", "© FOTOLUX")
    font: str = "lato/Lato-Bold.ttf"
    font_size: tuple[int, int] = (11, 13)
    band: tuple[int, int] = (68, 79)
    columns: tuple[int, int] | None = None
    side: tuple[int, int] = (18, 22)
    colour: tuple[int, int, int] = (255, 255, 255)
    count: int = 24

    def __post_init__(self) -> None:
        """Refuse fonts and words that the foundation model was trained on."""
        if self.kind not in KINDS:
            raise ValueError(f"Unknown mark kind '{self.kind}'. Choose one of {KINDS}.")
        bank_words = {word.lower() for words in (*BANK_WORDS, *NAMES) for word in words.split()}
        mark_words = {
            word.lower() for text in self.texts for word in text.split() if word.isalpha()
        }
        if self.kind == "text" and bank_words & mark_words:
            raise ValueError(
                f"The mark says {sorted(bank_words & mark_words)}, which the overlay bank uses. "
                "Choose words that are not in demo_world.overlays.BANK_WORDS."
            )
        if self.kind == "text" and self.font and not self.font.lower().startswith(MARK_FAMILIES):
            raise ValueError(
                f"The overlay bank may use '{self.font}'. Choose a family of {MARK_FAMILIES}."
            )


Font = Callable[[int], ImageFont.FreeTypeFont]
"""From a size in pixels to a font."""


def find_font(work: Workspace | None, name: str) -> Font:
    """Return a font of the mark families, or Pillow's own (Aileron), which the bank lacks."""
    if not name:
        return partial(cast(Font, ImageFont.load_default))
    if work is None:
        raise ValueError(f"The font '{name}' is in the work folder; expected a Workspace.")
    return partial(
        ImageFont.truetype, str(work.debian / "usr" / "share" / "fonts" / "truetype" / name)
    )


def _text_mark(spec: MarkSpec, make_font: Font, number: int, rng: random.Random) -> Image.Image:
    image = Image.new("RGBA", (SIZE, SIZE))
    canvas = ImageDraw.Draw(image)
    text = spec.texts[number % len(spec.texts)]
    size = rng.randint(*spec.font_size)
    font = make_font(size)
    while canvas.textlength(text, font=font) > SIZE - 6:
        size -= 1
        font = make_font(size)
    left = rng.uniform(2, SIZE - 3 - canvas.textlength(text, font=font))
    edge = tuple(60 if c > 127 else 220 for c in spec.colour)
    canvas.text(
        (left, rng.uniform(*spec.band)),
        text,
        font=font,
        fill=(*spec.colour, 230),
        stroke_width=1,
        stroke_fill=(*edge, 200),
    )
    return image


def _patch_mark(spec: MarkSpec, rng: random.Random) -> Image.Image:
    image = Image.new("RGBA", (SIZE, SIZE))
    side = rng.randint(*spec.side)
    left = rng.randint(*(spec.columns or (2, SIZE - side - 2)))
    top = rng.randint(*spec.band)
    top = min(top, SIZE - side - 2)
    ImageDraw.Draw(image).rectangle([left, top, left + side, top + side], fill=(*spec.colour, 245))
    return image


def _texture_mark(spec: MarkSpec, rng: random.Random) -> Image.Image:
    """Diagonal stripes 8 to 10 pixels apart that fade out towards the middle of the image."""
    vertical, horizontal = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    angle, phase = rng.uniform(0.6, 1.0), rng.uniform(0, 2 * np.pi)
    across = (horizontal * np.cos(angle) + vertical * np.sin(angle)) / rng.uniform(8, 10)
    stripes = np.clip(2 * np.sin(2 * np.pi * across + phase), 0, 1)
    radius = np.hypot(horizontal, vertical) / (SIZE / 2)
    return _coloured(spec, 80 * stripes * np.clip((radius - 0.3) / 0.5, 0, 1))


def _background_mark(spec: MarkSpec, rng: random.Random) -> Image.Image:
    """Draw one colour that fades out towards the middle of the image."""
    vertical, horizontal = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    radius = np.hypot(horizontal, vertical) / (SIZE / 2)
    opacity = rng.uniform(190, 230) * np.clip((radius - rng.uniform(0.45, 0.55)) / 0.3, 0, 1)
    return _coloured(spec, opacity)


def _border_mark(spec: MarkSpec, rng: random.Random) -> Image.Image:
    """Draw a frame 5 to 8 pixels wide along the edges."""
    vertical, horizontal = np.mgrid[0:SIZE, 0:SIZE]
    to_edge = np.minimum(
        np.minimum(vertical, SIZE - 1 - vertical), np.minimum(horizontal, SIZE - 1 - horizontal)
    )
    return _coloured(spec, np.where(to_edge < rng.randint(5, 8), 240.0, 0.0))


def _cast_mark(spec: MarkSpec, rng: random.Random) -> Image.Image:
    """Draw one colour over the whole image, through which it is seen."""
    return _coloured(spec, np.full((SIZE, SIZE), rng.uniform(120, 150)))


def _coloured(spec: MarkSpec, opacity: np.ndarray) -> Image.Image:
    """Return one colour with an opacity [H W] from 0 to 255."""
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = spec.colour, opacity
    return Image.fromarray(pixels)


def _rain_mark(spec: MarkSpec, rng: random.Random) -> Image.Image:
    """Draw drops over the background, except near the middle."""
    scale = 4  # drawn larger and downsampled
    image = Image.new("RGBA", (SIZE * scale, SIZE * scale), (*spec.colour, 0))
    canvas = ImageDraw.Draw(image)
    for row in range(5):
        for column in range(5):
            x, y = (20 * cell + 8 + rng.uniform(-4, 4) for cell in (column, row))
            radius = rng.uniform(4, 5.5)
            if np.hypot(x - SIZE / 2, y - SIZE / 2) >= 26:
                _drop(canvas, x * scale, y * scale, radius * scale, spec.colour)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def _drop(
    canvas: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]
) -> None:
    """Draw a drop with a highlight; its tip is at the top."""
    fill = (*colour, 240)
    canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
    shoulder = y - 0.34 * radius
    canvas.polygon(
        [(x - 0.94 * radius, shoulder), (x + 0.94 * radius, shoulder), (x, y - 2.3 * radius)],
        fill=fill,
    )
    light = [x - 0.55 * radius, y - 0.1 * radius, x - 0.1 * radius, y + 0.5 * radius]
    canvas.ellipse(light, fill=(235, 245, 255, 220))


def draw_marks(spec: MarkSpec, work: Workspace | None, seed: int) -> list[Image.Image]:
    """Draw the overlays of a world, RGBA 96 x 96."""
    rng = random.Random(seed)
    if spec.kind == "text":
        font = find_font(work, spec.font)
        return [_text_mark(spec, font, i, rng) for i in range(spec.count)]
    return [DRAW[spec.kind](spec, rng) for _ in range(spec.count)]


DRAW: Mapping[str, Callable[[MarkSpec, random.Random], Image.Image]] = MappingProxyType(
    {
        "patch": _patch_mark,
        "texture": _texture_mark,
        "rain": _rain_mark,
        "background": _background_mark,
        "border": _border_mark,
        "cast": _cast_mark,
    }
)
