"""Plots of components' numbers: measures by layer, class relevance, effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.figure import INK, LINE, SERIES, SOFT, new_figure, styled
from semlens.draw.marks import name_rows


@styled
def scores_plot(measures: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw one panel per measure and one box per layer.

    Parameters
    ----------
    measures
        By measure and layer, the values of its components.
    """
    layers = list(next(iter(measures.values())))
    figure, panels = new_figure(10, 1.4 + 0.42 * len(layers), 1, len(measures), sharey=True)
    for axes, (measure, values), colour in zip(panels, measures.items(), SERIES, strict=False):
        _boxes(axes, [values[layer] for layer in layers], colour)
        axes.set_title(measure)
    name_rows(panels[0], layers)
    return figure


def _boxes(axes: Axes, values: list[np.ndarray], colour: str) -> None:
    """Draw a row per layer: all components as dots, quartiles as a box."""
    draw = np.random.default_rng(0)
    for place, part in enumerate(values):
        aside = draw.uniform(-0.26, 0.26, len(part))
        axes.scatter(part, place + aside, s=5, color=colour, alpha=0.3, lw=0, rasterized=True)
    filled = [place for place, part in enumerate(values) if len(part)]
    axes.boxplot(
        [values[place] for place in filled], positions=filled, orientation="horizontal",
        widths=0.5, showfliers=False, manage_ticks=False, medianprops={"color": INK, "lw": 1.6},
        boxprops={"color": SOFT}, whiskerprops={"color": SOFT}, capprops={"color": SOFT},
    )  # fmt: skip


@styled
def bars_plot(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    unit: str,
    peaks: Sequence[float] | None = None,
) -> Figure:
    """Draw a bar per name, the first one at the top.

    Parameters
    ----------
    unit
        What the values are.
    peaks
        Largest values, drawn as marks.
    """
    figure, (axes,) = new_figure(6.5, 1.2 + 0.24 * len(names))
    places = np.arange(len(names))
    axes.barh(places, values, 0.7, color=[SERIES[0 if v >= 0 else 1] for v in values])
    if peaks is not None:
        axes.scatter(peaks, places, s=22, marker="|", color=INK, label="largest")
        axes.legend()
    name_rows(axes, names)
    axes.set_xlabel(unit)
    axes.set_title(title)
    return figure


NAMED = 8
"""So many of the most relevant components have their names beside them."""


@styled
def effect_plot(frame: pd.DataFrame, title: str, note: str) -> Figure:
    """Draw a dot per component or group, with standard errors, and the line of equal values.

    Parameters
    ----------
    frame
        ``unit``, ``relevance``, ``effect``, ``relevance_error``, ``effect_error``; the
        largest relevance first.
    """
    figure, (axes,) = new_figure(6.5, 5.0)
    axes.axline((0, 0), slope=1, color=LINE, lw=1, ls="--")
    axes.errorbar(
        frame["relevance"], frame["effect"], frame["effect_error"], frame["relevance_error"],
        fmt="o", ms=4, color=SERIES[0], ecolor=LINE, elinewidth=1,
    )  # fmt: skip
    for row in frame.head(NAMED).to_dict("records"):
        at = (row["relevance"], row["effect"])
        axes.annotate(row["unit"], at, (5, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xlabel("relevance, in units of the logit")
    axes.set_ylabel("effect: logit less that without it")
    axes.set_title(title)
    figure.supxlabel(note, fontsize=8, color=SOFT)
    return figure
