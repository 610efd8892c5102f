"""Plots of components: measures by layer, effects, examples, and relevance by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from textwrap import shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import INK, SERIES, SOFT, new_figure, styled
from semlens.draw.palette import FOR, VERDICTS
from semlens.draw.plot_elements import name_rows, show_square


@styled
def scores_plot(measures: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw one panel per measure and one box per layer.

    Parameters
    ----------
    measures
        Values of the components, by measure and layer.
    """
    layers = list(next(iter(measures.values())))
    figure, panels = new_figure(10.0, 1.4 + 0.42 * len(layers), 1, len(measures), sharey=True)
    for axes, (measure, values), colour in zip(panels, measures.items(), SERIES, strict=False):
        _draw_boxes(axes, [values[layer] for layer in layers], colour)
        axes.set_title(measure)
    name_rows(panels[0], layers)
    return figure


def _draw_boxes(axes: Axes, values: list[np.ndarray], colour: str) -> None:
    """Draw one row per layer: components as dots, quartiles as a box."""
    rng = np.random.default_rng(0)
    for row, layer_values in enumerate(values):
        jitter = rng.uniform(-0.26, 0.26, len(layer_values))
        axes.scatter(
            layer_values, row + jitter, s=5, color=colour, alpha=0.3, lw=0, rasterized=True
        )
    nonempty = [row for row, layer_values in enumerate(values) if len(layer_values)]
    axes.boxplot(
        [values[row] for row in nonempty], positions=nonempty, orientation="horizontal",
        widths=0.5, showfliers=False, manage_ticks=False, medianprops={"color": INK, "lw": 1.6},
        boxprops={"color": SOFT}, whiskerprops={"color": SOFT}, capprops={"color": SOFT},
    )  # fmt: skip


COLUMNS = 2
SHOWN = 6
"""Examples in a strip."""
MAX_LETTERS = 15
"""Maximum length of the name of a file or folder."""


@dataclass(frozen=True)
class UnexpectedCard:
    """The plot's data of one unexpected component.

    Parameters
    ----------
    share
        Its mean share of the layer's relevance, for the class.
    nearest, score
        The nearest concept, and its score.
    pictures, files
        The strongest examples, and their files.
    classes
        Name and mean share of the classes with the largest relevance, and whether it is the
        target class.
    """

    component: str
    share: float
    nearest: str
    score: float
    pictures: Sequence[Image.Image]
    files: Sequence[str]
    classes: Sequence[tuple[str, float, bool]]


@styled
def draw_unexpected(title: str, cards: Sequence[UnexpectedCard], more: int = 0) -> Figure:
    """Draw a strip of examples per component, and below it its relevance by class.

    Parameters
    ----------
    more
        Number of further components that are not drawn.
    """
    if not cards:
        figure, (axis,) = new_figure(6.4, 1.2, title=title)
        axis.set_axis_off()
        axis.text(0, 0.5, "Every relevant component is described by a concept.", color=SOFT)
        return figure
    columns = min(COLUMNS, len(cards))
    rows = -(-len(cards) // columns)
    figure, axes = new_figure(
        4.4 * columns, 2.1 * rows + 0.4, 2 * rows, columns,
        title + (f"   ({more} more)" if more else ""),
        height_ratios=[1.15, 1.0] * rows,
    )  # fmt: skip
    figure.set_layout_engine("constrained", w_pad=0.07)
    for axis in axes:
        axis.set_axis_off()
    largest = max((value for card in cards for _, value, _ in card.classes), default=0.0)
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        _draw_strip(axes[2 * row * columns + column], card)
        _draw_bars(axes[(2 * row + 1) * columns + column], card.classes, max(largest, 1e-9))
    return figure


def _draw_strip(axes: Axes, card: UnexpectedCard) -> None:
    nearest = f"nearest: {shorten(card.nearest, 28, placeholder='…')} ({card.score:+.3f})"
    axes.set_title(f"{card.component}   {card.share:.1%}", fontsize=9.5, pad=3)
    axes.set_title(nearest, loc="right", fontsize=7.5, color=SOFT, weight="normal", pad=3)
    for index, picture in enumerate(card.pictures[:SHOWN]):
        show_square(axes, picture, index)
    for index, file in enumerate(card.files[:SHOWN]):
        axes.text(
            index + 0.5, -0.03, _short_path(file), fontsize=4.8, color=SOFT, ha="center", va="top",
            linespacing=1.05,
        )  # fmt: skip
    if not card.pictures:
        axes.text(0, 0.5, "The database has no thumbnails.", fontsize=8, color=SOFT)
    axes.set(xlim=(0, SHOWN), ylim=(-0.3, 1))
    axes.set_aspect("equal", anchor="NW")


def _draw_bars(axes: Axes, classes: Sequence[tuple[str, float, bool]], largest: float) -> None:
    for row, (name, value, is_target) in enumerate(classes):
        axes.barh(-row, value, 0.66, color=FOR if is_target else VERDICTS["unexpected"])
        axes.text(
            min(value, 0) - 0.015 * largest, -row, shorten(name, 26, placeholder="…"),
            va="center", ha="right", fontsize=7.5, weight="bold" if is_target else "normal",
        )  # fmt: skip
        axes.text(
            max(value, 0) + 0.015 * largest, -row, f"{value:.1%}",
            va="center", fontsize=7, color=SOFT,
        )  # fmt: skip
    lowest = min([0.0, *(value for _, value, _ in classes)])
    axes.set(xlim=(-0.5 * largest + lowest, 1.15 * largest), ylim=(-4.6, 0.6))


def _short_path(path: str) -> str:
    """Return the last folder and the file name of a path, shortened, on a line each."""
    names = PurePosixPath(path).parts[-2:]
    return "\n".join(n if len(n) <= MAX_LETTERS else n[: MAX_LETTERS - 1] + "…" for n in names)
