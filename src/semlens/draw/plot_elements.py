"""Marks that several plots share: bars with numbers, named rows and columns, small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from PIL import Image

from semlens.draw.figure import INK, PAPER, SERIES

_PLATE = "#eef1f5"
"""Behind a picture that does not fill its square."""


def ink_on(colour: Any) -> str:
    """Return the colour of a text that can be read on a colour."""
    return INK if np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > 0.5 else PAPER


def dot_handles(colours: Mapping[str, Any]) -> list[Line2D]:
    """Return what a legend shows for dots: a name and a colour each."""
    return [
        Line2D([], [], marker="o", linestyle="", color=colour, label=name)
        for name, colour in colours.items()
    ]


def side_by_side(count: int, width: float) -> tuple[np.ndarray, float]:
    """Return places around 0 of bars that share a width, and the width of each."""
    return (np.arange(count) - (count - 1) / 2) * width / count, width / count


def name_rows(axes: Axes, names: Sequence[object]) -> None:
    """Name rows 0, 1, ... from the top to the bottom."""
    axes.set_yticks(range(len(names)), [str(name) for name in names])
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def name_columns(axes: Axes, names: Sequence[object], room: int) -> bool:
    """Name columns 0, 1, ...; slanted, which is returned, where ``room`` letters do not do."""
    texts = [str(name) for name in names]
    slanted = sum(map(len, texts)) > room
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(texts)), texts, **(turned if slanted else {}))
    axes.tick_params(axis="x", length=0)
    return slanted


def in_percent(axis: Axis) -> None:
    """Write the shares along an axis as per cent."""
    axis.set_major_formatter(PercentFormatter(1, 0, " %"))


def stacked_bar(axes: Axes, place: int, parts: Sequence[tuple[float, str, str]]) -> None:
    """Draw shares of 1 one after the other; the text of a part stands in it if it fits."""
    start = 0.0
    for share, colour, text in parts:
        axes.barh(place, share, 0.72, start, color=colour, edgecolor=PAPER, linewidth=0.6)
        if share > 0.02 + 0.012 * len(text):
            axes.text(start + share / 2, place, text, ha="center", va="center", fontsize=7,
                      color=ink_on(colour))  # fmt: skip
        start += share


def counted_bars(
    axes: Axes, names: Sequence[object], series: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Draw a row of bars per name, one for each series, and behind each its number.

    Parameters
    ----------
    series
        By name, the lengths of its bars and their numbers.
    """
    beside, thick = side_by_side(len(series), 0.78)
    for number, (title, (lengths, counts)) in enumerate(series.items()):
        at = np.arange(len(names)) + beside[number]
        axes.barh(at, lengths, thick, color=SERIES[number % len(SERIES)], label=title)
        for y, x, count in zip(at, lengths, counts, strict=True):
            axes.text(x, y, f" {int(count)}", va="center", fontsize=7)
    name_rows(axes, names)
    axes.margins(x=0.12)
    axes.grid(axis="x")
    if len(series) > 1:
        axes.legend()


def colour_bar(axes: Axes, picture: ScalarMappable, **settings: Any) -> None:
    """Draw what the colours of a picture mean to the right of its axes."""
    bar = axes.figure.colorbar(picture, ax=axes, **settings)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=8)


def show_square(axes: Axes, picture: Image.Image, left: int | float) -> None:
    """Show a picture in the middle of a plate that fills the unit square from ``left`` on."""
    axes.add_patch(Rectangle((left + 0.02, 0.02), 0.96, 0.96, color=_PLATE, lw=0, zorder=-1))
    width, height = (0.96 * side / max(picture.size) for side in picture.size)
    x, y = left + (1 - width) / 2, (1 - height) / 2
    axes.imshow(np.asarray(picture), extent=(x, x + width, y, y + height))
