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

MEASURES = ("clarity", "redundancy", "polysemanticity")


@styled
def drift_figure(series: pd.DataFrame, components: pd.DataFrame) -> Figure:
    """Draw the series of a ``Drift``, a panel for each thing that was followed.

    Parameters
    ----------
    series, components
        As in a ``Drift``.
    """
    panels: list[Callable[[Axes, pd.DataFrame], None]] = [_similarity]
    if _known(series, "moved"):
        panels.append(partial(_movement, components))
    if _known(series, "labels"):
        panels.append(_labels)
    if any(_known(series, name) for name in MEASURES):
        panels.append(_scores)
    rows, columns = (1, len(panels)) if len(panels) < 3 else (2, 2)
    figure, axes = new_figure(4.6 * columns, 3.1 * rows, rows, columns)
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis, series)
        axis.grid(axis="y", color=LINE, linewidth=0.5, alpha=0.6)
        names = [str(step) for step in series["step"]]
        turn: dict[str, Any] = {"rotation": 35, "ha": "right"} if sum(map(len, names)) > 44 else {}
        axis.set_xticks(range(len(names)), names, **turn)
        axis.set_xlim(-0.4, len(names) - 0.6)
        axis.legend(fontsize=7.5, frameon=False, ncols=2, handlelength=2.6, loc="upper center",
                    bbox_to_anchor=(0.5, -0.3 if turn else -0.13))  # fmt: skip
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _known(series: pd.DataFrame, column: str) -> bool:
    return not np.isnan(series[column].to_numpy(float)).all()


def _line(axis: Axes, values: Any, name: str, place: int, style: str = "-") -> None:
    at = np.arange(len(values))
    axis.plot(
        at, values.to_numpy(float), "o" + style, color=SERIES[place], label=name, markersize=4
    )


def _similarity(axis: Axes, series: pd.DataFrame) -> None:
    _line(axis, series["previous_in_this"], "previous step, found in this one", 0)
    _line(axis, series["this_in_previous"], "this step, found in the previous", 0, "--")
    _line(axis, series["this_in_last"], "this step, found in the last", 1)
    _line(axis, series["last_in_this"], "last step, found in this one", 1, "--")
    axis.set_title("Set similarity", loc="left")


def _movement(components: pd.DataFrame, axis: Axes, series: pd.DataFrame) -> None:
    """Draw the median movement of the components, the band from the lower to upper quartile."""
    groups = components.groupby("step", sort=False)
    at = np.arange(len(series))
    for place, (column, name) in enumerate(
        (("moved", "since the previous step"), ("from_last", "still to go to the last"))
    ):
        low, middle, high = (
            groups[column].quantile(q).reindex(series["step"]).to_numpy(float)
            for q in (0.25, 0.5, 0.75)
        )
        axis.fill_between(at, low, high, color=SERIES[place], alpha=0.18, linewidth=0)
        axis.plot(at, middle, "o-", color=SERIES[place], markersize=4, label=name)
    axis.set_title("Movement of a component (median, quartiles)", loc="left")
    axis.set_ylabel("1 - cosine")


def _labels(axis: Axes, series: pd.DataFrame) -> None:
    at = np.arange(len(series))
    gained, lost = (np.nan_to_num(series[name].to_numpy(float)) for name in ("gained", "lost"))
    axis.bar(at, gained, 0.5, color=SERIES[2], label="labels gained")
    axis.bar(at, -lost, 0.5, color=SERIES[1], label="labels lost")
    _line(axis, series["labels"], "different labels", 7)
    axis.axhline(0, color=LINE, linewidth=0.8)
    axis.set_title("Labels", loc="left")


def _scores(axis: Axes, series: pd.DataFrame) -> None:
    for place, name in enumerate(MEASURES):
        _line(axis, series[name], name, place)
    axis.set_title("Scores (means)", loc="left")
