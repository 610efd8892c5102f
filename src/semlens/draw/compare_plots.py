"""Plots of comparisons: what sets of components share, and how they change over a training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.figure import HEAT, LINE, SERIES, new_figure, styled
from semlens.draw.plot_elements import colour_bar, counted_bars, ink_on, name_columns, side_by_side

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
    panels: list[tuple[float, Callable[[Axes], None]]] = [
        (square, partial(_heat, similarity, "Set similarity, from row to column"))
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
    axis.set_xticks(
        range(len(measures)), [m.replace("polysemanticity", "polysem.") for m in measures]
    )
    axis.set(xlim=(-0.6, len(measures) - 0.4), title="Scores: median, quartiles")
    axis.grid(axis="y")
    axis.legend(loc="lower right")


MEASURES = ("clarity", "redundancy", "polysemanticity")


@styled
def drift_figure(series: pd.DataFrame, components: pd.DataFrame) -> Figure:
    """Draw the series of a ``Drift``, a panel for each thing that was followed.

    Parameters
    ----------
    series, components
        As in a ``Drift``.
    """
    known = set(series.columns[series.notna().any()])
    every: list[tuple[set[str], Callable[[Axes, pd.DataFrame], None]]] = [
        ({"step"}, _similarity),
        ({"moved"}, partial(_movement, components)),
        ({"labels"}, _label_counts),
        (set(MEASURES), _score_spread),
    ]
    panels = [panel for needed, panel in every if needed & known]
    rows, columns = (1, len(panels)) if len(panels) < 3 else (2, 2)
    figure, axes = new_figure(4.6 * columns, 3.1 * rows, rows, columns)
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis, series)
        axis.grid(axis="y")
        slanted = name_columns(axis, list(series["step"]), room=44)
        axis.set_xlim(-0.4, len(series) - 0.6)
        axis.legend(ncols=2, handlelength=2.6, loc="upper center",
                    bbox_to_anchor=(0.5, -0.3 if slanted else -0.13))  # fmt: skip
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _line(axis: Axes, values: Any, name: str, place: int, style: str = "-") -> None:
    axis.plot(
        range(len(values)),
        values.to_numpy(float),
        "o" + style,
        color=SERIES[place],
        label=name,
        ms=4,
    )


def _similarity(axis: Axes, series: pd.DataFrame) -> None:
    for column, name, place, style in (
        ("previous_in_this", "previous step, found in this one", 0, "-"),
        ("this_in_previous", "this step, found in the previous", 0, "--"),
        ("this_in_last", "this step, found in the last", 1, "-"),
        ("last_in_this", "last step, found in this one", 1, "--"),
    ):
        _line(axis, series[column], name, place, style)
    axis.set_title("Set similarity")


def _movement(components: pd.DataFrame, axis: Axes, series: pd.DataFrame) -> None:
    """Draw the median movement of the components, the band from the lower to upper quartile."""
    groups = components.groupby("step", sort=False)
    names = {"moved": "since the previous step", "from_last": "still to go to the last"}
    for place, (column, name) in enumerate(names.items()):
        low, middle, high = (
            groups[column].quantile(q).reindex(series["step"]) for q in (0.25, 0.5, 0.75)
        )
        axis.fill_between(
            np.arange(len(series)), low, high, color=SERIES[place], alpha=0.18, linewidth=0
        )
        _line(axis, middle, name, place)
    axis.set(title="Movement of a component (median, quartiles)", ylabel="1 - cosine")


def _label_counts(axis: Axes, series: pd.DataFrame) -> None:
    for column, sign, place in (("gained", 1, 2), ("lost", -1, 1)):
        axis.bar(range(len(series)), sign * np.nan_to_num(series[column].to_numpy(float)), 0.5,
                 color=SERIES[place], label=f"labels {column}")  # fmt: skip
    _line(axis, series["labels"], "different labels", 7)
    axis.axhline(0, color=LINE, linewidth=0.8)
    axis.set_title("Labels")


def _score_spread(axis: Axes, series: pd.DataFrame) -> None:
    for place, name in enumerate(MEASURES):
        _line(axis, series[name], name, place)
    axis.set_title("Scores (means)")
