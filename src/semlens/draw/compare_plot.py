"""Comparison of sets of components: heat maps, and for two sets their labels and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.figure import HEAT, INK, LINE, PAPER, SERIES, new_figure, styled

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
    maps = [("Set similarity, from row to column", similarity)]
    if centred is not None:
        maps.append(("Centred set similarity", centred))
    beside = len(similarity) == 2 and (labels is not None or scores is not None)
    side = max(2.2, 0.42 * len(similarity) + 0.4)
    name = 0.075 * max(len(str(n)) for n in similarity.index)
    widths = [side + name + 0.7] * len(maps) + ([] if not beside else _side_widths(labels, scores))
    height = max(side + min(name, 1.6) + 0.5, 3.6 if beside else 0)
    figure, axes = new_figure(sum(widths), height, 1, len(widths), width_ratios=widths)
    for axis, (title, values) in zip(axes, maps, strict=False):
        _heat(axis, values, title)
    if beside:
        rest = axes[len(maps) :]
        names = list(similarity.index)
        if labels is not None:
            _labels(rest[0], labels, names)
        if scores is not None:
            _scores(rest[-1], scores, names)
    return figure


def _side_widths(labels: pd.DataFrame | None, scores: pd.DataFrame | None) -> list[float]:
    return ([3.6] if labels is not None else []) + ([3.0] if scores is not None else [])


def _heat(axis: Axes, values: pd.DataFrame, title: str) -> None:
    """Write each value into its cell; the diagonal, 1 by definition, stays out of the scale."""
    cells = values.to_numpy(float)
    apart = cells[~np.eye(len(cells), dtype=bool)]
    low, high = float(np.nanmin(apart)), float(np.nanmax(apart))
    margin = max((high - low) * 0.05, 1e-3)
    shown = np.where(np.eye(len(cells), dtype=bool), np.nan, cells)
    picture = axis.imshow(shown, cmap=HEAT, vmin=low - margin, vmax=high + margin)
    many = len(cells) > 12
    for row in range(len(cells)):
        for column in range(len(cells)):
            value = cells[row, column]
            strong = row != column and (value - low + margin) > 0.55 * (high - low + 2 * margin)
            text = "1" if row == column else f"{value:.2f}".replace("0.", ".")
            size, colour = 6.0 if many else 8.0, PAPER if strong else INK
            axis.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    names = [str(name) for name in values.index]
    axis.set_yticks(range(len(names)), names)
    slanted = sum(map(len, names)) > 12 * len(names) or len(names) > 3
    turn: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    )
    axis.set_xticks(range(len(names)), names, **turn)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, loc="left")
    if len(names) < 4:
        return  # the written values say it all
    bar = axis.figure.colorbar(picture, ax=axis, fraction=0.04, pad=0.03, shrink=0.8)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0)


def _labels(axis: Axes, labels: pd.DataFrame, names: list[str]) -> None:
    """Draw shares of the labels that stand for most components, one bar per set."""
    wide = labels.pivot(index="label", columns="set", values="share")[names]
    counts = labels.pivot(index="label", columns="set", values="count")[names]
    order = wide.sum(axis=1).sort_values(ascending=False, kind="stable").index[:LABELS]
    place = np.arange(len(order), dtype=float)
    thick = 0.8 / len(names)
    for number, name in enumerate(names):
        at = place + (number - (len(names) - 1) / 2) * thick
        share = 100 * wide.loc[order, name].to_numpy(float)
        axis.barh(at, share, thick, color=SERIES[number], label=name)
        for y, x, count in zip(at, share, counts.loc[order, name], strict=True):
            axis.text(x, y, f" {int(count)}", va="center", fontsize=6.5, color=INK)
    axis.set_yticks(place, [str(label) for label in order])
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.margins(x=0.12)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("% of the set's components (number)")
    axis.set_title("Most frequent labels", loc="left")
    axis.legend(fontsize=8, loc="lower right", frameon=False)


def _scores(axis: Axes, scores: pd.DataFrame, names: list[str]) -> None:
    """Draw median and quartiles of each measure, the sets side by side."""
    measures = list(dict.fromkeys(scores["measure"]))
    for number, name in enumerate(names):
        part = scores[scores["set"] == name].set_index("measure").loc[measures]
        at = np.arange(len(measures)) + (number - (len(names) - 1) / 2) * 0.24
        middle = part["median"].to_numpy(float)
        low = part["lower_quartile"].to_numpy(float)
        high = part["upper_quartile"].to_numpy(float)
        axis.vlines(at, low, high, color=SERIES[number], linewidth=5, alpha=0.35)
        axis.plot(at, middle, "o", color=SERIES[number], markersize=5, label=name)
        for x, y in zip(at, middle, strict=True):
            axis.annotate(f"{y:.2f}", (x, y), (6 if number else -6, 0), va="center", fontsize=7,
                          ha="left" if number else "right",
                          textcoords="offset points")  # fmt: skip
    short = [measure.replace("polysemanticity", "polysem.") for measure in measures]
    axis.set_xticks(range(len(measures)), short)
    axis.set_xlim(-0.6, len(measures) - 0.4)
    axis.grid(axis="y", color=LINE, linewidth=0.5, alpha=0.6)
    axis.set_title("Scores: median, quartiles", loc="left")
    axis.legend(fontsize=8, frameon=False, loc="lower right")
