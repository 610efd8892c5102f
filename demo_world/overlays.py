"""Overlays (text, signatures, logos, stamps, shapes) and the words that describe them.

The bank teaches the foundation model that writing over a picture is "text", "a watermark" and so
on. It never uses the fonts or words of the planted marks; ``marks.py`` checks both.
"""

import random
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from demo_world.workspace import SIZE, Workspace

MARK_FAMILIES = ("lato", "comfortaa")
BASED_ON_MARK_FAMILIES = ("carlito",)
CURSIVE = ("dancing", "rufscript", "breip", "humor")
NOT_LATIN = ("symbol", "karlatamil", "math", "keyboard", "initials", "dejavumath", "mono")
GENERIC_WORDS = (
    "text",
    "letters",
    "writing",
    "words",
    "lettering",
    "watermark text",
    "text overlay",
    "words written on the image",
    "letters and words",
    "an inscription",
)
KIND_WORDS = {
    "watermark": (
        "watermark",
        "watermark",
        "watermark text",
        "stock photo watermark",
        "copyright",
        "copyright watermark",
    ),
    "copyright": (
        "copyright",
        "copyright",
        "copyright notice",
        "copyright watermark",
        "watermark",
    ),
    "signature": ("signature", "signature", "autograph", "handwriting", "artist signature"),
    "logo": ("logo", "logo", "brand logo", "company logo", "logo watermark"),
    "stamp": ("stamp", "stamp", "rubber stamp", "stamped text", "seal stamp"),
    "caption": ("caption", "caption text", "headline", "title text", "subtitle"),
    "shape": ("sticker", "colored shape", "geometric shape"),
}
KIND_SHARES = {
    "watermark": 0.34,
    "copyright": 0.2,
    "signature": 0.1,
    "logo": 0.1,
    "stamp": 0.08,
    "caption": 0.18,
}
TEMPLATES = ("{}", "a {}", "an image of a close up of {}", "a picture with {}")
BANK_WORDS = (
    "SAMPLE|DEMO|PREVIEW|STOCK|PHOTO|www.pics.com|DRAFT|Shutter|Getty|proof|Do not copy|News|"
    "hello|Image|TEXT|WATERMARK|ACME|studio|Lorem ipsum|by John|free|SALE|Title|No. 42|abc|XYZ|"
    "read me|caption|Online Shop|Nature|HD|TV 5|LIVE|breaking|all rights|images|agency|Dream|"
    "alamy|clipart.org|depot|Media|press|photography|Anna|Berlin|Design|vector|CREATIVE"
).split("|")
NAMES = "J. Smith|Maria|A. Weber|Picasso|Chen|Tom|Elena R.|van Dyk|Olga|M. Rossi|Ida|Kim".split("|")
SHAPE_COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (250, 215, 20),
    "purple": (140, 50, 180),
    "orange": (245, 130, 20),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}


@dataclass(frozen=True)
class Overlay:
    """One RGBA overlay, uint8[size size 4], its kind, and phrases that describe it."""

    pixels: np.ndarray
    kind: str
    phrases: tuple[str, ...]


def bank_fonts(work: Workspace) -> list[Path]:
    """Return Latin fonts for the bank, without those related to the planted marks."""
    banned = (*MARK_FAMILIES, *BASED_ON_MARK_FAMILIES)
    folder = work.debian / "usr" / "share" / "fonts"
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".ttf", ".otf"))
    names = [(p, str(p.relative_to(folder)).lower().replace("-", "")) for p in files]
    return [p for p, n in names if not any(b in n for b in (*banned, *NOT_LATIN))]


def pick_font(fonts: list[Path], rng: random.Random) -> Path:
    """Draw a font family with equal probability, then one of its files."""
    folders = sorted({p.parent for p in fonts})
    folder = rng.choice(folders)
    return rng.choice([p for p in fonts if p.parent == folder])


def invented_word(rng: random.Random) -> str:
    """Return random letters, a third of the time in capitals."""
    word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9)))
    return word.upper() if rng.random() < 0.33 else word


def overlay_text(kind: str, rng: random.Random) -> str:
    """Return a text for an overlay of this kind."""
    word = rng.choice(BANK_WORDS) if rng.random() < 0.6 else invented_word(rng)
    if kind == "copyright":
        form = rng.choice(["© {}", "(c) {}", "copyright {}", "© {} 2024", "Copyright\n{}", "©{}"])
        return form.format(word)
    if kind == "signature":
        return rng.choice(NAMES) if rng.random() < 0.6 else invented_word(rng).title()
    if kind == "caption" and rng.random() < 0.4:
        return f"{word}\n{rng.choice(BANK_WORDS)}"
    return word


def draw_colour(rng: random.Random) -> tuple[int, int, int]:
    """Draw a colour; white, black and grey are more frequent than others."""
    any_colour = (rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255))
    return rng.choice([(255, 255, 255), (0, 0, 0), (200, 200, 200), any_colour])


def _logo_mark(
    canvas: ImageDraw.ImageDraw, box: list[float], rng: random.Random, unit: float
) -> None:
    colour = (*draw_colour(rng), rng.randint(150, 255))
    form = rng.choice(["ellipse", "rectangle", "triangle", "ring"])
    left, top, right, bottom = box
    if form == "triangle":
        canvas.polygon([(left, bottom), ((left + right) / 2, top), (right, bottom)], fill=colour)
    elif form == "ring":
        canvas.ellipse(box, outline=colour, width=round(3 * unit))
    elif form == "ellipse":
        canvas.ellipse(box, fill=colour)
    else:
        canvas.rectangle(box, fill=colour)


def text_overlay(kind: str, fonts: list[Path], rng: random.Random, size: int) -> Image.Image:
    """Draw one overlay with text."""
    unit = size / SIZE
    cursive = [p for p in fonts if any(c in p.name.lower() for c in CURSIVE)]
    font_file = rng.choice(cursive) if kind == "signature" else pick_font(fonts, rng)
    text = overlay_text(kind, rng)
    font = ImageFont.truetype(str(font_file), round(rng.randint(9, 26) * unit))
    image = Image.new("RGBA", (size, size))
    canvas = ImageDraw.Draw(image)
    left, top, right, bottom = canvas.multiline_textbbox((0, 0), text, font=font)
    width, height = right - left, bottom - top
    x = rng.uniform(-4 * unit, max(0.0, size - width))
    y = rng.uniform(0, max(0.0, size - height - 2 * unit))
    if kind in ("caption", "signature", "copyright") and rng.random() < 0.5:
        y = max(0.0, size - height - rng.uniform(2, 12) * unit)
    alpha = rng.randint(110, 255) if kind in ("watermark", "copyright") else rng.randint(180, 255)
    colour = draw_colour(rng)
    inverse = tuple(255 - c for c in colour)
    box = [x - 3 * unit, y - 2 * unit, x + width + 3 * unit, y + height + 3 * unit]
    if kind == "caption" and rng.random() < 0.5:
        canvas.rectangle(box, fill=(*inverse, alpha))
    if kind == "stamp":
        round_stamp = rng.random() < 0.4
        outline = canvas.ellipse if round_stamp else canvas.rectangle
        outline(box, outline=(*colour, alpha), width=round(2 * unit))
    if kind == "logo":
        side = rng.uniform(10, 26) * unit
        _logo_mark(canvas, [x, max(0.0, y - side), x + side, max(side, y)], rng, unit)
    stroke = round(unit) if rng.random() < 0.3 else 0
    canvas.multiline_text(
        (x - left, y - top),
        text,
        font=font,
        fill=(*colour, alpha),
        stroke_width=stroke,
        stroke_fill=(*inverse, alpha),
    )
    if kind == "watermark" and rng.random() < 0.35:
        for row in range(-size, 2 * size, int(height) + round(14 * unit)):
            at = (rng.uniform(-20, 10) * unit, row)
            canvas.text(at, text, font=font, fill=(*colour, alpha // 2 + 40))
    turn = {"stamp": 0.7, "watermark": 0.4, "signature": 0.5}.get(kind, 0.15)
    if rng.random() < turn:
        image = image.rotate(rng.uniform(-45, 45), Image.Resampling.BICUBIC)
    return image


def shape_overlay(rng: random.Random, size: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Draw shapes of one colour, and return their descriptions."""
    unit = size / SIZE
    image = Image.new("RGBA", (size, size))
    canvas = ImageDraw.Draw(image)
    name, colour = rng.choice(sorted(SHAPE_COLOURS.items()))
    fill = (*(max(0, min(255, c + rng.randint(-25, 25))) for c in colour), rng.randint(180, 255))
    form = rng.choice(["square", "circle", "line"])
    for _ in range(rng.randint(1, 3)):
        x, y = rng.randint(0, SIZE - 10) * unit, rng.randint(0, SIZE - 10) * unit
        side = rng.randint(10, 34) * unit
        if form == "circle":
            canvas.ellipse([x, y, x + side, y + side], fill=fill)
        elif form == "square":
            canvas.rectangle([x, y, x + side, y + side], fill=fill)
        else:
            end = (rng.randint(0, SIZE) * unit, rng.randint(0, SIZE) * unit)
            canvas.line([(x, y), end], fill=fill, width=round(rng.randint(2, 6) * unit))
    return image, (f"{name} {form}", f"{name} {form}", f"{form}", f"{name} sticker")


def overlay_bank(work: Workspace, count: int, seed: int) -> list[Overlay]:
    """Draw ``count`` overlays; one in six has shapes, the others have text."""
    rng = random.Random(seed)
    fonts = bank_fonts(work)
    kinds, shares = list(KIND_SHARES), list(KIND_SHARES.values())
    bank: list[Overlay] = []
    while len(bank) < count:
        if len(bank) % 6 == 5:
            image, phrases = shape_overlay(rng, work.size)
            bank.append(Overlay(np.array(image), "shape", (*KIND_WORDS["shape"], *phrases)))
            continue
        kind = rng.choices(kinds, shares)[0]
        image = text_overlay(kind, fonts, rng, work.size)
        if (np.array(image)[..., 3] > 60).mean() > 0.01:
            bank.append(Overlay(np.array(image), kind, KIND_WORDS[kind] + GENERIC_WORDS[:5]))
    return bank


def overlay_phrases() -> list[str]:
    """Return every phrase that can describe an overlay, in all templates."""
    phrases = {p for words in KIND_WORDS.values() for p in words} | set(GENERIC_WORDS)
    for colour in SHAPE_COLOURS:
        phrases |= {f"{colour} {form}" for form in ("square", "circle", "line", "sticker")}
    phrases |= {"square", "circle", "line"}
    return sorted({t.format(p) for p in phrases for t in TEMPLATES})
