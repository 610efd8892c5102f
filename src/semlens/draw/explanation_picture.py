"""Picture of an explanation: the image, its heatmap, and the most relevant components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from semlens.draw.encode_images import decode_image, encode_webp, fit_text, font
from semlens.draw.html import render, webp_uri
from semlens.draw.palette import AGAINST, FOR

SIDE = 260
"""Longest side of the image and of its overlay, in pixels."""
CELL = 112
"""Side of a component's crop, and of the square with its examples."""
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
        Name of the component, and its label or an empty string.
    relevance
        In units of the logit.
    share
        Share of the layer's absolute relevance, in [-1, 1].
    crop
        The component's box in the image, masked.
    examples
        Up to four concept examples as WebP.
    """

    name: str
    label: str
    relevance: float
    share: float
    crop: Image.Image
    examples: Sequence[bytes]


@dataclass(frozen=True)
class ExplanationPage:
    """Content of the picture.

    Parameters
    ----------
    title
        Title of the picture.
    lines
        Lines of text below the title.
    image, overlay
        The image, without and with the heatmap of the class.
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
        """Largest absolute share, whose bar has full length."""
        return max((abs(c.share) for _, _, cards in self.layers for c in cards), default=0) or 1.0


def page_html(page: ExplanationPage, *, whole: bool = True) -> str:
    """Return the picture as self-contained HTML.

    Parameters
    ----------
    whole
        Whether to return a complete page, or only its content (for notebooks).
    """
    return render(
        "explain.html.j2",
        whole=whole,
        page=page,
        picture=lambda image: webp_uri(encode_webp(image, 88)),
        example=webp_uri,
        good=FOR,
        bad=AGAINST,
    )


def draw_page(page: ExplanationPage) -> Image.Image:
    """Draw the picture."""
    image, overlay = (
        ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
        for picture in (page.image, page.overlay)
    )
    head = PAD + max(image.height + LINE, 2 * LINE + len(page.lines) * LINE + GAP) + PAD
    heights = [
        HEAD + max(1, -(-len(cards) // COLUMNS)) * CARD_HEIGHT + GAP for _, _, cards in page.layers
    ]
    canvas = Image.new("RGB", (WIDTH, head + sum(heights) + PAD), "white")
    overlay_left = PAD + image.width + GAP
    canvas.paste(image, (PAD, PAD))
    canvas.paste(overlay, (overlay_left, PAD))
    left = overlay_left + image.width + 3 * GAP
    width = WIDTH - left - PAD
    _write(canvas, (left, PAD), page.title, width, 19)
    for index, line in enumerate(page.lines, start=2):
        _write(canvas, (left, PAD + index * LINE), line, width, 13, "#444")
    text_top = PAD + image.height + 3
    _write(canvas, (PAD, text_top), "the image", image.width, 12, SOFT)
    _write(canvas, (overlay_left, text_top), "blue: for, orange: against", SIDE, 12, SOFT)
    top = head
    for (name, note, cards), height in zip(page.layers, heights, strict=True):
        ImageDraw.Draw(canvas).line((PAD, top - GAP, WIDTH - PAD, top - GAP), fill="#ccc")
        name_width = _write(canvas, (PAD, top), name, WIDTH // 2, 16)
        _write(
            canvas, (PAD + name_width + 12, top + 3), note, WIDTH - 2 * PAD - name_width, 13, SOFT
        )
        for index, card in enumerate(cards):
            row, column = divmod(index, COLUMNS)
            corner = (PAD + column * (CARD + 2 * GAP), top + HEAD + row * CARD_HEIGHT)
            _draw_card(canvas, card, corner, page.largest)
        top += height
    return canvas


def _draw_card(
    canvas: Image.Image, card: ExplanationCard, corner: tuple[int, int], largest: float
) -> None:
    left, top = corner
    canvas.paste(_plate(card.crop, CELL), corner)
    side = (CELL - 2) // 2
    for index, webp in enumerate(card.examples[:4]):
        row, column = divmod(index, 2)
        position = (left + CELL + GAP + column * (side + 2), top + row * (side + 2))
        canvas.paste(_plate(decode_image(webp), side), position)
    if not card.examples:
        _write(canvas, (left + CELL + GAP, top), "no examples", CELL, 12, SOFT)
    text_top = top + CELL + 3
    label, colour = (card.label, "black") if card.label else ("(no label)", "#888")
    _write(canvas, (left, text_top), label, CARD - 62, 14, colour)
    _write(canvas, (left, text_top + LINE), card.name, CARD - 62, 12, SOFT)
    draw, right = ImageDraw.Draw(canvas), left + CARD
    draw.text((right, text_top), f"{card.relevance:+.3f}", "black", font(14), anchor="ra")
    draw.text((right, text_top + LINE), f"{100 * card.share:+.1f} %", SOFT, font(12), anchor="ra")
    bar_top = text_top + 2 * LINE + 2
    draw.rectangle((left, bar_top, right - 1, bar_top + 5), fill="#e8e8e8")
    bar_right = left + round((CARD - 1) * abs(card.share) / largest)
    draw.rectangle((left, bar_top, bar_right, bar_top + 5), fill=FOR if card.share > 0 else AGAINST)


def _plate(image: Image.Image, side: int) -> Image.Image:
    """Centre an image in a square."""
    return ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, PLATE)


def _write(
    canvas: Image.Image,
    corner: tuple[int, int],
    text: str,
    width: int,
    size: int,
    fill: str = "black",
) -> int:
    """Draw a text, shortened to a width, and return the width of the drawn text."""
    visible = fit_text(text, size, width)
    ImageDraw.Draw(canvas).text(corner, visible, fill=fill, font=font(size))
    return int(font(size).getlength(visible))
