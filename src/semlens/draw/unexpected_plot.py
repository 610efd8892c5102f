"""Components with their examples and the classes that they drive (paper, Fig. 2d)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from semlens.draw.figure import SERIES, SOFT, VERDICTS, new_figure, styled

COLUMNS = 2
CELL = "#eef1f5"
SHOWN = 6
"""Examples in a strip."""


@dataclass(frozen=True)
class Card:
    """One component.

    Parameters
    ----------
    share
        Its mean share of the layer's relevance, for the class.
    nearest, alignment
        The concept that comes nearest all the same.
    pictures, files
        Its strongest examples, and the files that they come from.
    classes
        Name and mean share of classes that it drives, and whether it is the class asked for.
    """

    component: str
    share: float
    nearest: str
    alignment: float
    pictures: Sequence[Image.Image]
    files: Sequence[str]
    classes: Sequence[tuple[str, float, bool]]


@styled
def draw_unexpected(title: str, cards: Sequence[Card], more: int = 0) -> Figure:
    """Draw a strip of examples per component, and below it the classes that it drives.

    Parameters
    ----------
    more
        How many components there are that are not drawn.
    """
    if not cards:
        figure, (axes,) = new_figure(6.4, 1.2)
        axes.set_axis_off()
        axes.text(0, 0.5, "Every relevant component is described by a concept.", color=SOFT)
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        return figure
    columns = min(COLUMNS, len(cards))
    lines = -(-len(cards) // columns)
    figure, axes = new_figure(
        4.4 * columns, 2.1 * lines + 0.4, 2 * lines, columns, height_ratios=[1.15, 1.0] * lines
    )
    figure.set_layout_engine("constrained", w_pad=0.07)
    largest = max((value for card in cards for _, value, _ in card.classes), default=0.0)
    for place in range(lines * columns):
        line, column = divmod(place, columns)
        strip, bars = (axes[(2 * line + part) * columns + column] for part in (0, 1))
        strip.set_axis_off()
        bars.set_axis_off()
        if place < len(cards):
            _strip(strip, cards[place])
            _bars(bars, cards[place].classes, max(largest, 1e-9))
    note = f"   ({more} more)" if more else ""
    figure.suptitle(title + note, x=0.01, ha="left", weight="bold", fontsize=11)
    return figure


def _strip(axes: Axes, card: Card) -> None:
    near = f"nearest: {shorten(card.nearest, 28, placeholder='…')} ({card.alignment:+.3f})"
    axes.set_title(
        f"{card.component}   {card.share:.1%}", loc="left", fontsize=9.5, weight="bold", pad=3
    )
    axes.set_title(near, loc="right", fontsize=7.5, color=SOFT, weight="normal", pad=3)
    for place, picture in enumerate(card.pictures[:SHOWN]):
        axes.add_patch(
            Rectangle((place + 0.02, 0.02), 0.96, 0.96, color=CELL, linewidth=0, zorder=-1)
        )
        width, height = (0.96 * side / max(picture.size) for side in picture.size)
        left, low = place + (1 - width) / 2, (1 - height) / 2
        axes.imshow(np.asarray(picture), extent=(left, left + width, low, low + height))
    for place, file in enumerate(card.files[:SHOWN]):
        axes.text(
            place + 0.5, -0.03, _short(file), fontsize=4.8, color=SOFT, ha="center", va="top",
            linespacing=1.05,
        )  # fmt: skip
    if not card.pictures:
        axes.text(0, 0.5, "The database keeps no thumbnails.", fontsize=8, color=SOFT)
    axes.set_xlim(0, SHOWN)
    axes.set_ylim(-0.3, 1)
    axes.set_aspect("equal", anchor="NW")


def _bars(axes: Axes, classes: Sequence[tuple[str, float, bool]], largest: float) -> None:
    places = -np.arange(len(classes), dtype=float)
    values = [value for _, value, _ in classes]
    colours = [SERIES[0] if mine else VERDICTS["unexpected"] for *_, mine in classes]
    axes.barh(places, values, height=0.66, color=colours)
    axes.set_xlim(-0.5 * largest + min(0.0, *values, 0.0), 1.15 * largest)
    axes.set_ylim(-4.6, 0.6)
    for place, (name, value, mine) in zip(places, classes, strict=True):
        axes.text(
            min(value, 0) - 0.015 * largest, place, shorten(name, 26, placeholder="…"),
            va="center", ha="right", fontsize=7.5, weight="bold" if mine else "normal",
        )  # fmt: skip
        axes.text(
            max(value, 0) + 0.015 * largest, place, f"{value:.1%}",
            va="center", fontsize=7, color=SOFT,
        )  # fmt: skip


def _short(path: str, width: int = 15) -> str:
    """Put the last folder and the file of a path on a short line each."""
    folder, _, file = path.rpartition("/")
    parts = [folder.rpartition("/")[2], file] if folder else [file]
    return "\n".join(part if len(part) <= width else part[: width - 1] + "…" for part in parts)
