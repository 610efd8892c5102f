"""Elements shared by plots: bars with counts, labelled rows and columns, small pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from PIL import Image

from semlens.draw.figure import INK, PAPER, SERIES


def ink_on(colour: Any) -> str:
    """Return the text colour that is readable on a background colour."""
    return INK if np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > 0.5 else PAPER


def dot_handles(colours: Mapping[str, Any]) -> list[Line2D]:
    """Return legend handles for dots, one per name and colour."""
    return [
        Line2D([], [], marker="o", linestyle="", color=colour, label=name)
        for name, colour in colours.items()
    ]


def side_by_side(count: int, width: float) -> tuple[np.ndarray, float]:
    """Return the offsets around 0 of bars that share a width, and the width of each bar."""
    return (np.arange(count) - (count - 1) / 2) * width / count, width / count


def name_rows(axes: Axes, names: Sequence[object]) -> None:
    """Label rows 0, 1, ... from top to bottom."""
    axes.set_yticks(range(len(names)), [str(name) for name in names])
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def name_columns(axes: Axes, names: Sequence[object], room: int) -> bool:
    """Label columns 0, 1, ...; labels of over ``room`` letters in total are slanted.

    Returns
    -------
    bool
        Whether they are slanted.
    """
    texts = [str(name) for name in names]
    slanted = sum(map(len, texts)) > room
    rotated: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(texts)), texts, **(rotated if slanted else {}))
    axes.tick_params(axis="x", length=0)
    return slanted


def in_percent(axis: Axis) -> None:
    """Format the shares along an axis as percentages."""
    axis.set_major_formatter(PercentFormatter(1, 0, " %"))


def stacked_bar(axes: Axes, position: int, segments: Sequence[tuple[float, str, str]]) -> None:
    """Draw shares of 1 as segments of one bar, each with its text if it fits."""
    start = 0.0
    for share, colour, text in segments:
        axes.barh(position, share, 0.72, start, color=colour, edgecolor=PAPER, linewidth=0.6)
        if share > 0.02 + 0.012 * len(text):
            axes.text(start + share / 2, position, text, ha="center", va="center", fontsize=7,
                      color=ink_on(colour))  # fmt: skip
        start += share


def counted_bars(
    axes: Axes, names: Sequence[object], series: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Draw one row per name with one bar per series, and the count behind each bar.

    Parameters
    ----------
    series
        Lengths and counts of the bars, by name of the series.
    """
    offsets, thickness = side_by_side(len(series), 0.78)
    for index, (title, (lengths, counts)) in enumerate(series.items()):
        positions = np.arange(len(names)) + offsets[index]
        axes.barh(positions, lengths, thickness, color=SERIES[index % len(SERIES)], label=title)
        for y, x, count in zip(positions, lengths, counts, strict=True):
            axes.text(x, y, f" {int(count)}", va="center", fontsize=7)
    name_rows(axes, names)
    axes.margins(x=0.12)
    axes.grid(axis="x")
    if len(series) > 1:
        axes.legend()


def colour_bar(axes: Axes, picture: ScalarMappable, **settings: Any) -> None:
    """Draw the colour bar of a mappable to the right of its axes."""
    bar = axes.figure.colorbar(picture, ax=axes, **settings)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=8)


def show_in_cell(axes: Axes, picture: Image.Image, column: int | float, row: int | float) -> None:
    """Show a picture in a cell of a grid whose rows go down."""
    width, height = (0.94 * side / max(picture.size) for side in picture.size)
    x, y = column + (1 - width) / 2, row - height / 2
    axes.imshow(np.asarray(picture), extent=(x, x + width, y + height, y))
