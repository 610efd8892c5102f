"""Drawing the picture of an attribution graph: as SVG, or as pixels with Pillow."""

from __future__ import annotations

import unicodedata

import numpy as np
from jaxtyping import Float64
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageOps

from semlens.draw.encode_images import decoded, font
from semlens.draw.figure import INK, LINE, PAPER, SERIES, SOFT
from semlens.draw.graph_layout import CARD, INSET, THUMB, Curve, NodeCard, PlacedText, Scene
from semlens.draw.html import render, webp_uri

FOR, AGAINST = SERIES[:2]
REST = "#f4f6f9"
STRONGEST_TINT = 0.42
ROUND = 9

SMOOTH = 2
"""Pixels are drawn this many times finer, then averaged."""
SHARP = 2
"""Pixels of the result per unit of the layout."""
MOST_PIXELS = 60e6


def draw_svg(scene: Scene) -> str:
    """Return a self-contained SVG that follows the reader's light or dark setting."""
    return render(
        "graph.svg.j2",
        scene=scene,
        uri=webp_uri,
        card_size=CARD,
        inset=INSET,
        thumb=THUMB,
        round=ROUND,
        strongest_tint=STRONGEST_TINT,
        colours={
            "paper": PAPER, "ink": INK, "soft": SOFT, "line": LINE, "for": FOR, "against": AGAINST
        },
    )  # fmt: skip


def draw_png(scene: Scene) -> Image.Image:
    """Return the picture as pixels, light."""
    scale = min(float(SHARP * SMOOTH), (MOST_PIXELS / (scene.width * scene.height)) ** 0.5)
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
    outline = scale * _outline(curve)
    left, top = (int(least) - 1 for least in outline.min(0))
    right, bottom = (int(most) + 2 for most in outline.max(0))
    mask = Image.new("L", (right - left, bottom - top))
    corners = (outline - (left, top)).ravel().tolist()
    ImageDraw.Draw(mask).polygon(corners, fill=round(255 * curve.opacity))
    canvas.paste(AGAINST if curve.against else FOR, (left, top, right, bottom), mask)


def _outline(curve: Curve, steps: int = 48) -> Float64[np.ndarray, "n 2"]:
    """Return the corners of a curve that has a width."""
    t = np.linspace(0, 1, steps + 1)[:, None]
    start, end = np.array(curve.start), np.array(curve.end)
    handle = np.array([(start[0] + end[0]) / 2, start[1]])  # of the Bezier curve, half way across
    other = np.array([handle[0], end[1]])
    u = 1 - t
    middle = u**3 * start + 3 * u * u * t * handle + 3 * u * t * t * other + t**3 * end
    along = u * u * (handle - start) + 2 * u * t * (other - handle) + t * t * (end - other)
    length = np.linalg.norm(along, axis=1, keepdims=True)
    aside = along[:, ::-1] * (-1, 1) / length * curve.width / 2
    return np.concatenate([middle + aside, (middle - aside)[::-1]])


def _pixel_card(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, card: NodeCard, scale: float
) -> None:
    corners = (card.x, card.y, card.x + CARD[0], card.y + CARD[1])
    box = [round(value * scale) for value in corners]
    colour = _blend(AGAINST if card.against else FOR, STRONGEST_TINT * card.tint)
    rim = 0 if card.rest else max(1, round(1.2 * scale))
    draw.rounded_rectangle(box, ROUND * scale, REST if card.rest else colour, LINE, rim)
    if card.webp is not None:
        side = round(THUMB * scale)
        picture = ImageOps.fit(decoded(card.webp), (side, side))
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).rounded_rectangle([0, 0, side - 1, side - 1], 6 * scale, 255)
        canvas.paste(
            picture, (round((card.x + INSET) * scale), round((card.y + INSET) * scale)), mask
        )
    for text in card.texts:
        _pixel_text(draw, text, scale)


def _blend(colour: str, opacity: float) -> tuple[int, ...]:
    """Return what a colour looks like over the paper."""
    parts = zip(to_rgb(colour), to_rgb(PAPER), strict=True)
    return tuple(round(255 * (a * opacity + b * (1 - opacity))) for a, b in parts)


def _pixel_text(draw: ImageDraw.ImageDraw, text: PlacedText, scale: float) -> None:
    # Pillow's own font has English letters only
    letters = unicodedata.normalize("NFKD", text.text)
    draw.text(
        (text.x * scale, text.y * scale),
        "".join(c for c in letters if not unicodedata.combining(c)),
        fill=SOFT if text.soft else INK,
        font=font(text.size * scale),
        anchor="ms" if text.middle else "ls",
        # ... and one weight only: bold is drawn with a rim
        stroke_width=max(1, round(text.size * scale / 60)) if text.bold else 0,
        stroke_fill=INK,
    )
