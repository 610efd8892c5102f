"""Drift over the checkpoints of a training: similarity, movement, labels and scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.figure import LINE, SERIES, new_figure, styled
from semlens.draw.marks import name_columns

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
        ({"labels"}, _labels),
        (set(MEASURES), _scores),
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
    at = np.arange(len(values))
    axis.plot(at, values.to_numpy(float), "o" + style, color=SERIES[place], label=name, ms=4)


def _similarity(axis: Axes, series: pd.DataFrame) -> None:
    _line(axis, series["previous_in_this"], "previous step, found in this one", 0)
    _line(axis, series["this_in_previous"], "this step, found in the previous", 0, "--")
    _line(axis, series["this_in_last"], "this step, found in the last", 1)
    _line(axis, series["last_in_this"], "last step, found in this one", 1, "--")
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


def _labels(axis: Axes, series: pd.DataFrame) -> None:
    for column, sign, place in (("gained", 1, 2), ("lost", -1, 1)):
        count = np.nan_to_num(series[column].to_numpy(float))
        axis.bar(
            range(len(series)), sign * count, 0.5, color=SERIES[place], label=f"labels {column}"
        )
    _line(axis, series["labels"], "different labels", 7)
    axis.axhline(0, color=LINE, linewidth=0.8)
    axis.set_title("Labels")


def _scores(axis: Axes, series: pd.DataFrame) -> None:
    for place, name in enumerate(MEASURES):
        _line(axis, series[name], name, place)
    axis.set_title("Scores (means)")
