"""Comparison of sets of components: heat maps, and for two sets their labels and scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.figure import HEAT, SERIES, new_figure, styled
from semlens.draw.marks import colour_bar, counted_bars, ink_on, name_columns, side_by_side

LABELS = 14
"""Labels that stand side by side for two sets: those that most components have."""


@styled
def compare_figure(
    similarity: pd.DataFrame,
    centred: pd.DataFrame | None = None,
    labels: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
) -> Figure:
    """Draw set similarity, from rows to columns; two sets get their labels and scores, too.

    Parameters
    ----------
    similarity, centred
        Square tables by set name.
    labels, scores
        As in a ``Comparison``.
    """
    names = [str(name) for name in similarity.index]
    side, name = max(2.2, 0.42 * len(names) + 0.4), 0.075 * max(map(len, names))
    square = side + name + 0.7
    title = "Set similarity, from row to column"
    panels: list[tuple[float, Callable[[Axes], None]]] = [
        (square, partial(_heat, similarity, title))
    ]
    if centred is not None:
        panels.append((square, partial(_heat, centred, "Centred set similarity")))
    height = side + min(name, 1.6) + 0.5
    if len(names) == 2 and labels is not None:
        panels.append((3.6, partial(_labels, labels, names)))
    if len(names) == 2 and scores is not None:
        panels.append((3.0, partial(_scores, scores, names)))
    if any(width < square for width, _ in panels):
        height = max(height, 3.6)
    widths = [width for width, _ in panels]
    figure, axes = new_figure(sum(widths), height, 1, len(widths), width_ratios=widths)
    for axis, (_, draw) in zip(axes, panels, strict=True):
        draw(axis)
    return figure


def _heat(values: pd.DataFrame, title: str, axis: Axes) -> None:
    """Write each value into its cell; the diagonal, 1 by definition, stays out of the scale."""
    names, cells = list(values.index), values.to_numpy(float)
    apart = np.where(np.eye(len(cells), dtype=bool), np.nan, cells)
    low, high = float(np.nanmin(apart)), float(np.nanmax(apart))
    margin = max((high - low) * 0.05, 1e-3)
    picture = axis.imshow(apart, cmap=HEAT, vmin=low - margin, vmax=high + margin)
    for (row, column), value in np.ndenumerate(cells):
        text = "1" if row == column else f"{value:.2f}".replace("0.", ".")
        colour = ink_on("white" if row == column else picture.to_rgba(value))
        axis.text(column, row, text, ha="center", va="center", color=colour,
                  fontsize=6 if len(names) > 12 else 8)  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    name_columns(axis, names, room=12 * len(names) if len(names) < 4 else 0)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title)
    if len(names) > 3:  # of few, the written values say it all
        colour_bar(axis, picture, fraction=0.04, pad=0.03, shrink=0.8)


def _labels(labels: pd.DataFrame, names: list[str], axis: Axes) -> None:
    """Draw shares of the labels that stand for most components, one bar per set."""
    share, count = (
        labels.pivot(index="label", columns="set", values=column)[names]
        for column in ("share", "count")
    )
    order = share.sum(axis=1).sort_values(ascending=False, kind="stable").index[:LABELS]
    share, count = 100 * share.loc[order], count.loc[order]
    counted_bars(axis, list(order), {n: (share[n].to_numpy(), count[n].to_numpy()) for n in names})
    axis.set(xlabel="% of the set's components (number)", title="Most frequent labels")


def _scores(scores: pd.DataFrame, names: list[str], axis: Axes) -> None:
    """Draw median and quartiles of each measure, the sets side by side."""
    measures = list(dict.fromkeys(scores["measure"]))
    beside, _ = side_by_side(len(names), 0.48)
    for number, name in enumerate(names):
        part = scores[scores["set"] == name].set_index("measure").loc[measures]
        at, colour = np.arange(len(measures)) + beside[number], SERIES[number]
        middle = part["median"].to_numpy(float)
        axis.vlines(at, part["lower_quartile"], part["upper_quartile"], color=colour, lw=5,
                    alpha=0.35)  # fmt: skip
        axis.plot(at, middle, "o", color=colour, markersize=5, label=name)
        for x, y in zip(at, middle, strict=True):
            axis.annotate(f"{y:.2f}", (x, y), (6 if number else -6, 0), va="center", fontsize=7,
                          ha="left" if number else "right",
                          textcoords="offset points")  # fmt: skip
    short = [measure.replace("polysemanticity", "polysem.") for measure in measures]
    axis.set_xticks(range(len(measures)), short)
    axis.set(xlim=(-0.6, len(measures) - 0.4), title="Scores: median, quartiles")
    axis.grid(axis="y")
    axis.legend(loc="lower right")
