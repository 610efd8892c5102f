"""Dissection: shares of categories by layer, and the most frequent concepts (paper, Fig. D.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from semlens.draw.figure import INK, LINE, PAPER, SERIES, new_figure, styled

CATEGORIES = (*SERIES[:7], "#9dbf3b", "#e88fa5", "#12305f", "#a9866b", "#5f9ea0")
"""Colours of categories; what is smaller than these many is drawn as one."""
REST, NONE = "#8b95a3", "#e6eaf0"


@styled
def dissect_figure(
    counts: pd.DataFrame, totals: pd.DataFrame, sizes: pd.DataFrame, top: int = 12
) -> Figure:
    """Draw a stacked bar per layer, and the most frequent concepts as bars.

    Parameters
    ----------
    counts, totals, sizes
        As in a ``Dissection``.
    top
        How many concepts.
    """
    databases = list(dict.fromkeys(sizes["database"]))
    stacked = len(_outermost(counts)) > 0
    rows = len(sizes) + len(databases) - 1
    names = min(top, np.count_nonzero(totals["leaf"] & (totals["count"] > 0)))
    high = 0.17 * len(databases) + 0.06
    height = max(2.6, 0.34 * rows + 1.6 if stacked else 0, high * max(names, 1) + 1.5)
    widths = [6.2, 4.0] if stacked else [5.4]
    figure, axes = new_figure(sum(widths), height, 1, len(widths), width_ratios=widths)
    if stacked:
        _stacked(axes[0], counts, sizes)
    _concepts(axes[-1], totals, databases, top)
    return figure


def _outermost(counts: pd.DataFrame) -> pd.DataFrame:
    return counts.loc[(counts["depth"] == 1) & ~counts["leaf"]]


def _stacked(axis: Axes, counts: pd.DataFrame, sizes: pd.DataFrame) -> None:
    """Draw each layer's components by outermost category; the rest has no label."""
    frame = _outermost(counts)
    every = order = list(dict.fromkeys(frame["name"]))
    if len(order) > len(CATEGORIES):
        sums = frame.groupby("name").agg({"count": "sum"}).nlargest(len(CATEGORIES), ["count"])
        order = [name for name in order if name in set(sums.index)]
    several = len(set(sizes["database"])) > 1
    at, ticks, place, before = [], [], 0.0, None
    for size in sizes.to_dict("records"):
        if before not in (None, size["database"]):
            place += 0.6
        before = size["database"]
        mine = frame.loc[(frame["database"] == before) & (frame["layer"] == size["layer"])]
        count = dict(zip(mine["name"], mine["count"], strict=True))
        _bar(axis, place, count, order, size)
        at.append(place)
        ticks.append(f"{before}/{size['layer']}" if several else size["layer"])
        place += 1
    handles = [axis.barh([0], [0], color=CATEGORIES[i], label=n) for i, n in enumerate(order)]
    if len(order) < len(every):
        handles.append(axis.barh([0], [0], color=REST, label="other categories"))
    handles.append(axis.barh([0], [0], color=NONE, label="no label"))
    axis.set_yticks(at, ticks)
    axis.set_ylim(place - 0.4, -0.6)
    axis.set_xlim(0, 100)
    axis.set_xlabel("% of the layer's components (number)")
    axis.set_title("Components by category", loc="left")
    axis.figure.legend(handles=handles, frameon=False, fontsize=7.5, ncols=6,
                       loc="outside lower left")  # fmt: skip


def _bar(
    axis: Axes, place: float, count: dict[str, int], order: list[str], size: dict[Any, Any]
) -> None:
    total, labelled = int(size["components"]), int(size["labelled"])
    parts = [(count.get(name, 0), CATEGORIES[i]) for i, name in enumerate(order)]
    parts.append((labelled - sum(n for n, _ in parts), REST))  # or in no category at all
    parts.append((total - labelled, NONE))
    left = 0.0
    for number, colour in parts:
        wide = 100 * number / total
        axis.barh(place, wide, 0.72, left, color=colour, edgecolor=PAPER, linewidth=0.6)
        if wide > 3.5:
            shade = INK if colour in (NONE, "#e0a100", "#9dbf3b", "#e88fa5") else PAPER
            axis.text(left + wide / 2, place, str(number), ha="center", va="center", fontsize=7,
                      color=shade)  # fmt: skip
        left += wide


def _concepts(axis: Axes, totals: pd.DataFrame, databases: list[str], top: int) -> None:
    """Draw how many components the most frequent concepts have, the databases side by side."""
    leaves = totals.loc[totals["leaf"]]
    wide = leaves.pivot_table(index="name", columns="database", values="count", aggfunc="sum")
    most = wide.loc[list(dict.fromkeys(leaves["name"])), databases].max(axis=1).to_numpy(int)
    names = list(dict.fromkeys(leaves["name"]))
    order = [names[i] for i in np.argsort(-most, kind="stable")[:top] if most[i] > 0]
    place, thick = np.arange(len(order), dtype=float), 0.76 / len(databases)
    for number, name in enumerate(databases):
        at = place + (number - (len(databases) - 1) / 2) * thick
        values = wide.loc[order, name].to_numpy(float)
        axis.barh(at, values, thick, color=SERIES[number % len(SERIES)], label=name)
        for y, x in zip(at, values, strict=True):
            axis.text(x, y, f" {int(x)}", va="center", fontsize=7, color=INK)
    axis.set_yticks(place, [str(name) for name in order])
    axis.set_ylim(max(len(order), 1) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.margins(x=0.1)
    axis.grid(axis="x", color=LINE, linewidth=0.5, alpha=0.6)
    axis.set_axisbelow(True)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("components")
    axis.set_title("Most frequent concepts", loc="left")
    if len(databases) > 1:
        axis.legend(frameon=False, fontsize=8, loc="lower right")
