"""One prediction as a picture: the image, where it counts, and the components that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from semlens.draw.encode_images import decoded, encoded, font, shortened
from semlens.draw.heatmap_mask import AGAINST, FOR
from semlens.draw.html import render, webp_uri

SIDE = 260
"""Longest side of the image and of its overlay."""
CELL = 112
"""Side of a component's crop; its examples fill a square of the same side."""
GAP = 6
PAD = 18
COLUMNS = 4
LINE = 17
HEAD = 28
CARD = 2 * CELL + GAP
CARD_HEIGHT = CELL + 2 * LINE + 2 * GAP + 14
WIDTH = 2 * PAD + COLUMNS * CARD + (COLUMNS - 1) * 2 * GAP
SOFT, PLATE = "#666", "#f0f0f0"


@dataclass(frozen=True)
class ExplanationCard:
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
class ExplanationPage:
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
    layers: Sequence[tuple[str, str, Sequence[ExplanationCard]]]

    @property
    def largest(self) -> float:
        """The largest share of all, which fills a bar."""
        return max((abs(c.share) for _, _, cards in self.layers for c in cards), default=0) or 1.0


def page_html(page: ExplanationPage, *, whole: bool = True) -> str:
    """Return the picture as HTML with all images inside.

    Parameters
    ----------
    whole
        Whether to return a page of its own; else a part of one, for notebooks.
    """
    return render(
        "explain.html.j2",
        whole=whole,
        page=page,
        picture=lambda image: webp_uri(encoded(image, 88)),
        example=webp_uri,
        good=f"rgb{FOR}",
        bad=f"rgb{AGAINST}",
    )


def draw_page(page: ExplanationPage) -> Image.Image:
    """Draw the picture."""
    image, overlay = (
        ImageOps.contain(one, (SIDE, SIDE), Image.Resampling.LANCZOS)
        for one in (page.image, page.overlay)
    )
    head = PAD + max(image.height + LINE, 2 * LINE + len(page.lines) * LINE + GAP) + PAD
    heights = [
        HEAD + max(1, -(-len(cards) // COLUMNS)) * CARD_HEIGHT + GAP for _, _, cards in page.layers
    ]
    canvas = Image.new("RGB", (WIDTH, head + sum(heights) + PAD), "white")
    beside = PAD + image.width + GAP
    canvas.paste(image, (PAD, PAD))
    canvas.paste(overlay, (beside, PAD))
    left = beside + image.width + 3 * GAP
    room = WIDTH - left - PAD
    _write(canvas, (left, PAD), page.title, room, 19)
    for number, line in enumerate(page.lines, start=2):
        _write(canvas, (left, PAD + number * LINE), line, room, 13, "#444")
    below = PAD + image.height + 3
    _write(canvas, (PAD, below), "the image", image.width, 12, SOFT)
    _write(canvas, (beside, below), "red: for, blue: against", SIDE, 12, SOFT)
    top = head
    for (name, note, cards), height in zip(page.layers, heights, strict=True):
        ImageDraw.Draw(canvas).line((PAD, top - GAP, WIDTH - PAD, top - GAP), fill="#ccc")
        used = _write(canvas, (PAD, top), name, WIDTH // 2, 16)
        _write(canvas, (PAD + used + 12, top + 3), note, WIDTH - 2 * PAD - used, 13, SOFT)
        for number, card in enumerate(cards):
            row, column = divmod(number, COLUMNS)
            corner = (PAD + column * (CARD + 2 * GAP), top + HEAD + row * CARD_HEIGHT)
            _draw_card(canvas, card, corner, page.largest)
        top += height
    return canvas


def _draw_card(
    canvas: Image.Image, card: ExplanationCard, corner: tuple[int, int], largest: float
) -> None:
    left, top = corner
    canvas.paste(_plate(card.crop, CELL), corner)
    half = (CELL - 2) // 2
    for number, webp in enumerate(card.examples[:4]):
        row, column = divmod(number, 2)
        place = (left + CELL + GAP + column * (half + 2), top + row * (half + 2))
        canvas.paste(_plate(decoded(webp), half), place)
    if not card.examples:
        _write(canvas, (left + CELL + GAP, top), "no examples", CELL, 12, SOFT)
    below = top + CELL + 3
    label, shade = (card.label, "black") if card.label else ("(no label)", "#888")
    _write(canvas, (left, below), label, CARD - 62, 14, shade)
    _write(canvas, (left, below + LINE), card.name, CARD - 62, 12, SOFT)
    draw, right = ImageDraw.Draw(canvas), left + CARD
    draw.text((right, below), f"{card.relevance:+.3f}", "black", font(14), anchor="ra")
    draw.text((right, below + LINE), f"{100 * card.share:+.1f} %", SOFT, font(12), anchor="ra")
    bar = below + 2 * LINE + 2
    draw.rectangle((left, bar, right - 1, bar + 5), fill="#e8e8e8")
    end = left + round((CARD - 1) * abs(card.share) / largest)
    draw.rectangle((left, bar, end, bar + 5), fill=FOR if card.share > 0 else AGAINST)


def _plate(picture: Image.Image, side: int) -> Image.Image:
    """Put a picture in the middle of a square."""
    return ImageOps.pad(picture, (side, side), Image.Resampling.LANCZOS, PLATE)


def _write(
    canvas: Image.Image,
    corner: tuple[int, int],
    text: str,
    room: int,
    size: int,
    fill: str = "black",
) -> int:
    """Write a text, cut to a width, and return the width that it took."""
    shown = shortened(text, size, room)
    ImageDraw.Draw(canvas).text(corner, shown, fill=fill, font=font(size))
    return int(font(size).getlength(shown))
