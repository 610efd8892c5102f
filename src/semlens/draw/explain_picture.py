"""One prediction as a picture: the image, where it counts, and the components that count."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from semlens.draw.html import render, webp_uri
from semlens.draw.mask import AGAINST, FOR

SIDE = 260
"""Longest side of the image and of its overlay."""
CELL = 112
"""Side of a component's crop; its examples fill a square of the same side."""
GAP = 6
PAD = 18
COLUMNS = 4
LINE = 17
CARD = 2 * CELL + GAP
WIDTH = 2 * PAD + COLUMNS * CARD + (COLUMNS - 1) * 2 * GAP


@dataclass(frozen=True)
class Card:
    """One component in the picture.

    Parameters
    ----------
    name, label
        The component, and its label or an empty text.
    relevance
        In units of the logit.
    share
        Of the layer's total of absolute relevance, in [-1, 1].
    crop
        The component's box in the image, masked.
    examples
        WebP of up to four concept examples.
    """

    name: str
    label: str
    relevance: float
    share: float
    crop: Image.Image
    examples: Sequence[bytes]


@dataclass(frozen=True)
class Page:
    """What the picture shows.

    Parameters
    ----------
    title
        What is explained.
    lines
        Text below the title.
    image, overlay
        The image, and the same with the heatmap of the class over it.
    layers
        Name, note and components of each layer.
    """

    title: str
    lines: Sequence[str]
    image: Image.Image
    overlay: Image.Image
    layers: Sequence[tuple[str, str, Sequence[Card]]]


def page_html(page: Page, *, whole: bool = True) -> str:
    """Return the picture as HTML with all images inside.

    Parameters
    ----------
    whole
        Whether to return a page of its own; else a part of one, for notebooks.
    """
    largest = _largest(page)
    layers: list[dict[str, Any]] = [
        {
            "name": name,
            "note": note,
            "cards": [
                {
                    "name": card.name,
                    "label": card.label,
                    "relevance": card.relevance,
                    "share": card.share,
                    "colour": _css(FOR if card.share > 0 else AGAINST),
                    "width": 100 * abs(card.share) / largest,
                    "crop": _uri(card.crop),
                    "examples": [webp_uri(webp) for webp in card.examples],
                }
                for card in cards
            ],
        }
        for name, note, cards in page.layers
    ]
    return render(
        "explain.html.j2",
        whole=whole,
        title=page.title,
        lines=page.lines,
        image=_uri(page.image),
        overlay=_uri(page.overlay),
        layers=layers,
        good=_css(FOR),
        bad=_css(AGAINST),
    )


def draw_page(page: Page) -> Image.Image:
    """Draw the picture."""
    image, overlay = (_fit(picture, SIDE) for picture in (page.image, page.overlay))
    heights = [_layer_height(len(cards)) for _, _, cards in page.layers]
    head = PAD + max(image.height + LINE, 2 * LINE + len(page.lines) * LINE + GAP) + PAD
    canvas = Image.new("RGB", (WIDTH, head + sum(heights) + PAD), "white")
    draw = ImageDraw.Draw(canvas)
    canvas.paste(image, (PAD, PAD))
    canvas.paste(overlay, (PAD + image.width + GAP, PAD))
    left = PAD + 2 * (image.width + GAP) + 2 * GAP
    _text(draw, (left, PAD), page.title, WIDTH - left - PAD, 19)
    for number, line in enumerate(page.lines):
        _text(draw, (left, PAD + 2 * LINE + number * LINE), line, WIDTH - left - PAD, 13, "#444")
    below = PAD + image.height + 3
    _text(draw, (PAD, below), "the image", image.width, 12, "#666")
    _text(draw, (PAD + image.width + GAP, below), "red: for, blue: against", SIDE, 12, "#666")
    top = head
    for (name, note, cards), height in zip(page.layers, heights, strict=True):
        draw.line((PAD, top - GAP, WIDTH - PAD, top - GAP), fill="#ccc")
        used = _text(draw, (PAD, top), name, WIDTH // 2, 16)
        _text(draw, (PAD + used + 12, top + 3), note, WIDTH - 2 * PAD - used, 13, "#666")
        for number, card in enumerate(cards):
            row, column = divmod(number, COLUMNS)
            corner = (PAD + column * (CARD + 2 * GAP), top + 28 + row * _CARD_HEIGHT)
            _draw_card(canvas, card, corner, _largest(page))
        top += height
    return canvas


_CARD_HEIGHT = CELL + 2 * LINE + 2 * GAP + 14


def _layer_height(cards: int) -> int:
    return 28 + max(1, -(-cards // COLUMNS)) * _CARD_HEIGHT + GAP


def _draw_card(canvas: Image.Image, card: Card, corner: tuple[int, int], largest: float) -> None:
    draw = ImageDraw.Draw(canvas)
    left, top = corner
    _paste(canvas, card.crop, (left, top), CELL)
    half = (CELL - 2) // 2
    for number, webp in enumerate(card.examples[:4]):
        row, column = divmod(number, 2)
        place = (left + CELL + GAP + column * (half + 2), top + row * (half + 2))
        _paste(canvas, Image.open(io.BytesIO(webp)).convert("RGB"), place, half)
    if not card.examples:
        _text(draw, (left + CELL + GAP, top), "no examples", CELL, 12, "#666")
    below = top + CELL + 3
    _text(
        draw,
        (left, below),
        card.label or "(no label)",
        CARD - 62,
        14,
        "black" if card.label else "#888",
    )
    value = f"{card.relevance:+.3f}"
    font = ImageFont.load_default(size=14)
    draw.text((left + CARD - draw.textlength(value, font), below), value, fill="black", font=font)
    _text(draw, (left, below + LINE), card.name, CARD - 62, 12, "#666")
    share = f"{100 * card.share:+.1f} %"
    font = ImageFont.load_default(size=12)
    draw.text(
        (left + CARD - draw.textlength(share, font), below + LINE), share, fill="#666", font=font
    )
    bar = below + 2 * LINE + 2
    draw.rectangle((left, bar, left + CARD - 1, bar + 5), fill="#e8e8e8")
    width = round((CARD - 1) * abs(card.share) / largest)
    draw.rectangle((left, bar, left + width, bar + 5), fill=FOR if card.share > 0 else AGAINST)


def _largest(page: Page) -> float:
    """Return the largest share of the page, which fills a bar."""
    return max((abs(c.share) for _, _, cards in page.layers for c in cards), default=0) or 1.0


def _paste(canvas: Image.Image, picture: Image.Image, corner: tuple[int, int], side: int) -> None:
    """Put a picture in the middle of a square."""
    ImageDraw.Draw(canvas).rectangle(
        (*corner, corner[0] + side - 1, corner[1] + side - 1), fill="#f0f0f0"
    )
    small = _fit(picture, side)
    canvas.paste(
        small, (corner[0] + (side - small.width) // 2, corner[1] + (side - small.height) // 2)
    )


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Resize a picture so that its longer side has ``side`` pixels."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _text(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    width: int,
    size: int,
    fill: str = "black",
) -> int:
    """Write a text, cut to a width, and return the width that it took."""
    font = ImageFont.load_default(size=size)
    shown = text
    while shown and draw.textlength(shown, font) > width:
        shown = shown[:-2].rstrip() + "…" if len(shown) > 2 else ""
    draw.text(corner, shown, fill=fill, font=font)
    return int(draw.textlength(shown, font))


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88)
    return webp_uri(buffer.getvalue())


def _css(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)
