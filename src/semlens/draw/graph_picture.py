"""Drawing of attribution graphs, as SVG or as pixels with Pillow."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw, ImageOps

from semlens.draw.encode_images import decode_image, font
from semlens.draw.figure import INK, LINE, PAPER, SOFT
from semlens.draw.graph_scene import (
    CARD,
    INSET,
    THUMB,
    Curve,
    NodeCard,
    PlacedText,
    Scene,
    VerdictPart,
)
from semlens.draw.html import render, webp_uri
from semlens.draw.palette import AGAINST, FOR, NO_VERDICT, ON_DARK, VERDICTS

MERGED = "#f4f6f9"
"""Colour of the card of merged nodes."""
MAX_TINT = 0.42
CORNER_RADIUS = 9

SUPERSAMPLING = 2
"""Factor at which pixels are drawn finer and then averaged."""
PIXELS_PER_UNIT = 2
"""Pixels of the result per unit of the layout."""
MAX_PIXELS = 60e6
"""Maximum number of drawn pixels, before they are averaged."""


def draw_svg(scene: Scene) -> str:
    """Return a self-contained SVG, which adapts to the reader's light or dark colour scheme."""
    return render(
        "graph.svg.j2",
        scene=scene,
        uri=webp_uri,
        card_size=CARD,
        inset=INSET,
        thumb=THUMB,
        corner_radius=CORNER_RADIUS,
        max_tint=MAX_TINT,
        dark=ON_DARK,
        colours={
            "paper": PAPER, "ink": INK, "soft": SOFT, "line": LINE, "for": FOR, "against": AGAINST,
            **VERDICTS,
        },
        no_verdict=NO_VERDICT,
    )  # fmt: skip


def draw_png(scene: Scene) -> Image.Image:
    """Return the picture as pixels, always with the light colour scheme."""
    scale = min(
        float(PIXELS_PER_UNIT * SUPERSAMPLING),
        (MAX_PIXELS / (scene.width * scene.height)) ** 0.5,
    )
    size = (round(scene.width * scale), round(scene.height * scale))
    canvas = Image.new("RGB", size, PAPER)
    for curve in scene.curves:
        _pixel_curve(canvas, curve, scale)
    draw = ImageDraw.Draw(canvas)
    for card in scene.cards:
        _pixel_card(canvas, draw, card, scale)
    _pixel_parts(draw, scene.parts, scale)
    for text in scene.texts:
        _pixel_text(draw, text, scale)
    return canvas.resize((size[0] // SUPERSAMPLING, size[1] // SUPERSAMPLING), Image.Resampling.BOX)


def _pixel_curve(canvas: Image.Image, curve: Curve, scale: float) -> None:
    outline = scale * _outline(curve)
    left, top = (int(low) - 1 for low in outline.min(0))
    right, bottom = (int(high) + 2 for high in outline.max(0))
    mask = Image.new("L", (right - left, bottom - top))
    corners = (outline - (left, top)).ravel().tolist()
    ImageDraw.Draw(mask).polygon(corners, fill=round(255 * curve.opacity))
    canvas.paste(AGAINST if curve.against else FOR, (left, top, right, bottom), mask)


def _outline(curve: Curve, steps: int = 48) -> Float64[np.ndarray, "n 2"]:
    """Return the polygon that a curve covers: a cubic Bezier curve, widened along its normals."""
    t = np.linspace(0, 1, steps + 1)[:, None]
    start, end = np.array(curve.start), np.array(curve.end)
    control = np.array([(start[0] + end[0]) / 2, start[1]])  # halfway across
    other_control = np.array([control[0], end[1]])
    u = 1 - t
    centre = u**3 * start + 3 * u * u * t * control + 3 * u * t * t * other_control + t**3 * end
    tangent = (
        u * u * (control - start)
        + 2 * u * t * (other_control - control)
        + t * t * (end - other_control)
    )
    length = np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = tangent[:, ::-1] * (-1, 1) / length * curve.width / 2
    return np.concatenate([centre + normal, (centre - normal)[::-1]])


def _pixel_card(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, card: NodeCard, scale: float
) -> None:
    corners = (card.x, card.y, card.x + CARD[0], card.y + CARD[1])
    box = [round(value * scale) for value in corners]
    colour = (
        MERGED if card.merged else _blend(AGAINST if card.against else FOR, MAX_TINT * card.tint)
    )
    outline_width = 0 if card.merged else max(1, round(1.2 * scale))
    draw.rounded_rectangle(box, CORNER_RADIUS * scale, colour, LINE, outline_width)
    if card.webp is not None:
        side = round(THUMB * scale)
        picture = ImageOps.fit(decode_image(card.webp), (side, side))
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).rounded_rectangle([0, 0, side - 1, side - 1], 6 * scale, 255)
        canvas.paste(
            picture, (round((card.x + INSET) * scale), round((card.y + INSET) * scale)), mask
        )
    _pixel_parts(draw, card.parts, scale)
    for text in card.texts:
        _pixel_text(draw, text, scale)


def _pixel_parts(draw: ImageDraw.ImageDraw, parts: Sequence[VerdictPart], scale: float) -> None:
    for part in parts:
        corners = (part.x, part.y, part.x + part.width, part.y + part.height)
        box = [round(value * scale) for value in corners]
        if box[2] > box[0]:
            draw.rectangle([*box[:2], box[2] - 1, box[3] - 1], VERDICTS.get(part.verdict, LINE))


def _blend(colour: str, opacity: float) -> tuple[int, ...]:
    """Return a colour blended over the background."""
    channels = zip(to_rgb(colour), to_rgb(PAPER), strict=True)
    return tuple(round(255 * (a * opacity + b * (1 - opacity))) for a, b in channels)


def _pixel_text(draw: ImageDraw.ImageDraw, text: PlacedText, scale: float) -> None:
    # Pillow's default font lacks accented letters
    letters = unicodedata.normalize("NFKD", text.text)
    draw.text(
        (text.x * scale, text.y * scale),
        "".join(c for c in letters if not unicodedata.combining(c)),
        fill=SOFT if text.soft else INK,
        font=font(text.size * scale),
        anchor="ms" if text.centred else "ls",
        # and bold, which is drawn with a stroke instead
        stroke_width=max(1, round(text.size * scale / 60)) if text.bold else 0,
        stroke_fill=INK,
    )
