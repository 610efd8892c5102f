"""Drawing the picture of an attribution graph: as SVG, or as pixels with Pillow."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

from semlens.draw.graph_layout import INSET, THUMB, Card, Curve, Scene, Text
from semlens.draw.html import webp_uri

FOR = "#2f6fde"
AGAINST = "#d9622b"
PAPER, INK, SOFT, LINE = "#ffffff", "#1b2430", "#5d6978", "#c3ccd8"
REST = "#f4f6f9"
_DARK = {"paper": "#12171e", "ink": "#e8edf3", "soft": "#9aa7b6", "line": "#3b4756"}
_DARK_FOR, _DARK_AGAINST = "#6aa2ff", "#ff9563"
STRONGEST_TINT = 0.42
ROUND = 9

SMOOTH = 2
"""Pixels are drawn this many times finer, then averaged."""
SHARP = 2
"""Pixels of the result per unit of the layout."""
MOST_PIXELS = 60e6


def draw_svg(scene: Scene) -> str:
    """Return a self-contained SVG that follows the reader's light or dark setting."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {scene.width:g} {scene.height:g}" '
        f'width="{scene.width:g}" height="{scene.height:g}" role="img">',
        f"<title>{escape(scene.title)}</title>",
        f"<style>{_style(scene)}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        *(_svg_curve(curve) for curve in scene.curves),
        *(_svg_card(card) for card in scene.cards),
        *(_svg_text(text) for text in scene.texts),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _style(scene: Scene) -> str:
    light = {"paper": PAPER, "ink": INK, "soft": SOFT, "line": LINE}

    def variables(colours: dict[str, str], good: str, bad: str) -> str:
        named = {**colours, "for": good, "against": bad}
        return ";".join(f"--{name}:{colour}" for name, colour in named.items())

    rules = [
        f"svg{{{variables(light, FOR, AGAINST)};"
        "font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}",
        "@media (prefers-color-scheme:dark){svg{"
        f"{variables(_DARK, _DARK_FOR, _DARK_AGAINST)}}}}}",
        ".paper{fill:var(--paper)}",
        ".ink{fill:var(--ink)}.soft{fill:var(--soft)}",
        ".b{font-weight:600}.m{text-anchor:middle}",
        ".box{fill:var(--paper);stroke:var(--line);stroke-width:1.2}.rest{stroke-dasharray:4 3}",
        ".for{fill:var(--for)}.against{fill:var(--against)}",
        ".e{fill:none;transition:stroke-opacity .15s}",
        ".e.for{stroke:var(--for);fill:none}.e.against{stroke:var(--against);fill:none}",
        "image{clip-path:inset(0 round 6px)}",
        "g:hover>.box{stroke:var(--ink)}.e:hover{stroke-opacity:.95}",
    ]
    # pointing at a box fades the lines that do not touch it
    rules += [
        f"svg:has(#n{card.number}:hover) .e:not(.n{card.number}){{stroke-opacity:.04}}"
        for card in scene.cards
    ]
    return "".join(rules)


def _svg_curve(curve: Curve) -> str:
    (x0, y0), (x1, y1) = curve.start, curve.end
    bend = (x1 - x0) / 2
    kind = "against" if curve.against else "for"
    ends = "".join(f" n{number}" for number in curve.ends or ())
    return (
        f'<path class="e {kind}{ends}" stroke-width="{curve.width:.2f}" '
        f'stroke-opacity="{curve.opacity:.2f}" '
        f'd="M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} '
        f'{x1:.1f} {y1:.1f}"><title>{escape(curve.title)}</title></path>'
    )


def _svg_card(card: Card) -> str:
    place = (
        f'x="{card.x:.1f}" y="{card.y:.1f}" width="{card.width:g}" height="{card.height:g}" '
        f'rx="{ROUND}"'
    )
    kind = "against" if card.against else "for"
    tint = STRONGEST_TINT * card.tint
    parts = [
        f'<g id="n{card.number}"><title>{escape(card.title)}</title>',
        f'<rect class="box{" rest" * card.rest}" {place}/>',
        f'<rect class="{kind}" fill-opacity="{tint:.3f}" {place}/>',
        *(_svg_text(text) for text in card.texts),
    ]
    if card.webp is not None:
        parts.append(
            f'<image x="{card.x + INSET:.1f}" y="{card.y + INSET:.1f}" width="{THUMB:g}" '
            f'height="{THUMB:g}" preserveAspectRatio="xMidYMid slice" '
            f'href="{webp_uri(card.webp)}"/>'
        )
    return "".join([*parts, "</g>"])


def _svg_text(text: Text) -> str:
    kind = " ".join(["soft" if text.soft else "ink", *["b"] * text.bold, *["m"] * text.middle])
    return (
        f'<text class="{kind}" x="{text.x:.1f}" y="{text.y:.1f}" '
        f'font-size="{text.size:g}">{escape(text.text)}</text>'
    )


def draw_png(scene: Scene) -> Image.Image:
    """Return the picture as pixels, light."""
    scale = float(SHARP * SMOOTH)
    scale = min(scale, (MOST_PIXELS / (scene.width * scene.height)) ** 0.5)
    size = (round(scene.width * scale), round(scene.height * scale))
    canvas = Image.new("RGB", size, PAPER)
    for curve in scene.curves:
        _pixel_curve(canvas, curve, scale)
    draw = ImageDraw.Draw(canvas)
    for card in scene.cards:
        _pixel_card(canvas, draw, card, scale)
    for text in scene.texts:
        _pixel_text(draw, text, scale)
    return canvas.resize((size[0] // SMOOTH, size[1] // SMOOTH), Image.Resampling.BOX)


def _pixel_curve(canvas: Image.Image, curve: Curve, scale: float) -> None:
    outline = [(x * scale, y * scale) for x, y in _outline(curve)]
    left, top = (int(min(p[axis] for p in outline)) - 1 for axis in (0, 1))
    right, bottom = (int(max(p[axis] for p in outline)) + 2 for axis in (0, 1))
    mask = Image.new("L", (right - left, bottom - top))
    inside = [(x - left, y - top) for x, y in outline]
    ImageDraw.Draw(mask).polygon(inside, fill=round(255 * curve.opacity))
    canvas.paste(AGAINST if curve.against else FOR, (left, top, right, bottom), mask)


def _outline(curve: Curve, steps: int = 48) -> list[tuple[float, float]]:
    """Return the corners of a curve that has a width."""
    (x0, y0), (x1, y1) = curve.start, curve.end
    sides: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for step in range(steps + 1):
        t = step / steps
        # Bezier with both handles half way across
        x = x0 + (x1 - x0) * (1.5 * t * (1 - t) ** 2 + 1.5 * t * t * (1 - t) + t**3)
        y = y0 + (y1 - y0) * (3 * t * t * (1 - t) + t**3)
        across = (x1 - x0) * (1.5 * (1 - t) ** 2 + 1.5 * t * t)
        down = (y1 - y0) * 6 * t * (1 - t)
        length = (across**2 + down**2) ** 0.5 or 1.0
        aside = (-down / length * curve.width / 2, across / length * curve.width / 2)
        sides[0].append((x + aside[0], y + aside[1]))
        sides[1].append((x - aside[0], y - aside[1]))
    return sides[0] + sides[1][::-1]


def _pixel_card(canvas: Image.Image, draw: ImageDraw.ImageDraw, card: Card, scale: float) -> None:
    box = [
        round(value * scale)
        for value in (card.x, card.y, card.x + card.width, card.y + card.height)
    ]
    colour = _blend(AGAINST if card.against else FOR, STRONGEST_TINT * card.tint)
    rim = 0 if card.rest else max(1, round(1.2 * scale))
    draw.rounded_rectangle(box, ROUND * scale, REST if card.rest else colour, LINE, rim)
    if card.webp is not None:
        side = round(THUMB * scale)
        picture = _covering(Image.open(io.BytesIO(card.webp)).convert("RGB"), side)
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).rounded_rectangle([0, 0, side - 1, side - 1], 6 * scale, 255)
        canvas.paste(
            picture, (round((card.x + INSET) * scale), round((card.y + INSET) * scale)), mask
        )
    for text in card.texts:
        _pixel_text(draw, text, scale)


def _covering(picture: Image.Image, side: int) -> Image.Image:
    """Cut out the middle square, as the SVG does, and scale it."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    square = picture.crop((left, top, left + short, top + short))
    return square.resize((side, side), Image.Resampling.BICUBIC)


def _blend(colour: str, opacity: float) -> tuple[int, int, int]:
    """Return what a colour looks like over the paper."""
    parts = zip(_rgb(colour), _rgb(PAPER), strict=True)
    red, green, blue = (round(a * opacity + b * (1 - opacity)) for a, b in parts)
    return red, green, blue


def _rgb(colour: str) -> Iterator[int]:
    return (int(colour[i : i + 2], 16) for i in (1, 3, 5))


@lru_cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _pixel_text(draw: ImageDraw.ImageDraw, text: Text, scale: float) -> None:
    font = _font(text.size * scale)
    # Pillow's own font has English letters only
    plain = unicodedata.normalize("NFKD", text.text)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    # ... and one weight only: bold is drawn with a rim
    rim = max(1, round(text.size * scale / 60)) if text.bold else 0
    draw.text(
        (text.x * scale, text.y * scale),
        plain,
        fill=SOFT if text.soft else INK,
        font=font,
        anchor="ms" if text.middle else "ls",
        stroke_width=rim,
        stroke_fill=INK,
    )
