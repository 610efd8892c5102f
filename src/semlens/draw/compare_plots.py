"""Plots of comparisons between sets of components, and of their drift during training."""

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
"""Number of labels in the comparison of two sets: the most frequent ones."""


@styled
def compare_figure(
    similarity: pd.DataFrame,
    centred: pd.DataFrame | None = None,
    labels: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
) -> Figure:
    """Draw set similarity, from rows to columns, and for two sets also labels and scores.

    Parameters
    ----------
    similarity, centred
        Square tables by set name.
    labels, scores
        Tables of a ``Comparison``.
    """
    names = [str(name) for name in similarity.index]
    side, name_room = max(2.2, 0.42 * len(names) + 0.4), 0.075 * max(map(len, names))
    heat_width = side + name_room + 0.7
    panels: list[tuple[float, Callable[[Axes], None]]] = [
        (heat_width, partial(_heat, similarity, "Set similarity, from row to column"))
    ]
    if centred is not None:
        panels.append((heat_width, partial(_heat, centred, "Centred set similarity")))
    height = side + min(name_room, 1.6) + 0.5
    if len(names) == 2 and labels is not None:
        panels.append((3.6, partial(_labels, labels, names)))
    if len(names) == 2 and scores is not None:
        panels.append((3.0, partial(_scores, scores, names)))
    if any(width < heat_width for width, _ in panels):
        height = max(height, 3.6)
    widths = [width for width, _ in panels]
    figure, axes = new_figure(sum(widths), height, 1, len(widths), width_ratios=widths)
    for axis, (_, draw) in zip(axes, panels, strict=True):
        draw(axis)
    return figure


def _heat(values: pd.DataFrame, title: str, axis: Axes) -> None:
    """Draw a heatmap with values; the diagonal is 1 by definition and not part of the scale."""
    names, cells = list(values.index), values.to_numpy(float)
    off_diagonal = np.where(np.eye(len(cells), dtype=bool), np.nan, cells)
    low, high = float(np.nanmin(off_diagonal)), float(np.nanmax(off_diagonal))
    margin = max((high - low) * 0.05, 1e-3)
    mesh = axis.imshow(off_diagonal, cmap=HEAT, vmin=low - margin, vmax=high + margin)
    for (row, column), value in np.ndenumerate(cells):
        text = "1" if row == column else f"{value:.2f}".replace("0.", ".")
        colour = ink_on("white" if row == column else mesh.to_rgba(value))
        axis.text(column, row, text, ha="center", va="center", color=colour,
                  fontsize=6 if len(names) > 12 else 8)  # fmt: skip
    axis.set_yticks(range(len(names)), names)
    name_columns(axis, names, room=12 * len(names) if len(names) < 4 else 0)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title)
    if len(names) > 3:  # with few sets, the written values suffice
        colour_bar(axis, mesh, fraction=0.04, pad=0.03, shrink=0.8)


def _labels(labels: pd.DataFrame, names: list[str], axis: Axes) -> None:
    """Draw the shares of the most frequent labels, one bar per set."""
    share, count = (
        labels.pivot(index="label", columns="set", values=column)[names]
        for column in ("share", "count")
    )
    order = share.sum(axis=1).sort_values(ascending=False, kind="stable").index[:LABELS]
    share, count = 100 * share.loc[order], count.loc[order]
    counted_bars(axis, list(order), {n: (share[n].to_numpy(), count[n].to_numpy()) for n in names})
    axis.set(xlabel="% of the set's components (number)", title="Most frequent labels")


def _scores(scores: pd.DataFrame, names: list[str], axis: Axes) -> None:
    """Draw median and quartiles of each measure, with the sets side by side."""
    measures = list(dict.fromkeys(scores["measure"]))
    offsets, _ = side_by_side(len(names), 0.48)
    for index, name in enumerate(names):
        rows = scores[scores["set"] == name].set_index("measure").loc[measures]
        positions, colour = np.arange(len(measures)) + offsets[index], SERIES[index]
        median = rows["median"].to_numpy(float)
        axis.vlines(positions, rows["lower_quartile"], rows["upper_quartile"], color=colour, lw=5,
                    alpha=0.35)  # fmt: skip
        axis.plot(positions, median, "o", color=colour, markersize=5, label=name)
        for x, y in zip(positions, median, strict=True):
            axis.annotate(f"{y:.2f}", (x, y), (6 if index else -6, 0), va="center", fontsize=7,
                          ha="left" if index else "right",
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
    """Draw the series of a ``Drift``: similarity, movement, labels and scores.

    Parameters
    ----------
    series, components
        Tables of a ``Drift``.
    """
    available = set(series.columns[series.notna().any()])
    candidates: list[tuple[set[str], Callable[[Axes, pd.DataFrame], None]]] = [
        ({"step"}, _similarity),
        ({"moved"}, partial(_movement, components)),
        ({"labels"}, _label_counts),
        (set(MEASURES), _score_spread),
    ]
    panels = [panel for required, panel in candidates if required & available]
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


def _line(axis: Axes, values: Any, name: str, colour: int, style: str = "-") -> None:
    axis.plot(
        range(len(values)),
        values.to_numpy(float),
        "o" + style,
        color=SERIES[colour],
        label=name,
        ms=4,
    )


def _similarity(axis: Axes, series: pd.DataFrame) -> None:
    for column, name, colour, style in (
        ("previous_in_this", "from previous to this step", 0, "-"),
        ("this_in_previous", "from this to previous step", 0, "--"),
        ("this_in_last", "from this to last step", 1, "-"),
        ("last_in_this", "from last to this step", 1, "--"),
    ):
        _line(axis, series[column], name, colour, style)
    axis.set_title("Set similarity")


def _movement(components: pd.DataFrame, axis: Axes, series: pd.DataFrame) -> None:
    """Draw the median movement of the components, with a band between the quartiles."""
    groups = components.groupby("step", sort=False)
    names = {"moved": "from the previous step", "from_last": "to the last step"}
    for colour, (column, name) in enumerate(names.items()):
        low, median, high = (
            groups[column].quantile(q).reindex(series["step"]) for q in (0.25, 0.5, 0.75)
        )
        axis.fill_between(
            np.arange(len(series)), low, high, color=SERIES[colour], alpha=0.18, linewidth=0
        )
        _line(axis, median, name, colour)
    axis.set(title="Movement of a component (median, quartiles)", ylabel="1 - cosine")


def _label_counts(axis: Axes, series: pd.DataFrame) -> None:
    for column, sign, colour in (("gained", 1, 2), ("lost", -1, 1)):
        axis.bar(range(len(series)), sign * np.nan_to_num(series[column].to_numpy(float)), 0.5,
                 color=SERIES[colour], label=f"labels {column}")  # fmt: skip
    _line(axis, series["labels"], "different labels", 7)
    axis.axhline(0, color=LINE, linewidth=0.8)
    axis.set_title("Labels")


def _score_spread(axis: Axes, series: pd.DataFrame) -> None:
    for colour, name in enumerate(MEASURES):
        _line(axis, series[name], name, colour)
    axis.set_title("Scores (means)")
