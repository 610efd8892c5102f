"""Dissection: shares of categories by layer, and the most frequent concepts (paper, Fig. D.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from semlens.draw.figure import SERIES, new_figure, styled
from semlens.draw.marks import counted_bars, in_percent, name_rows, stacked_bar

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
    outermost = counts.loc[(counts["depth"] == 1) & ~counts["leaf"]]
    stacked = len(outermost) > 0
    names = min(top, np.count_nonzero(totals["leaf"] & (totals["count"] > 0)))
    high = 0.17 * len(databases) + 0.06
    rows = len(sizes) + len(databases) - 1
    height = max(2.6, 0.34 * rows + 1.6 if stacked else 0, high * max(names, 1) + 1.5)
    widths = [6.2, 4.0] if stacked else [5.4]
    figure, axes = new_figure(sum(widths), height, 1, len(widths), width_ratios=widths)
    if stacked:
        _stacked(axes[0], outermost, sizes)
    _concepts(axes[-1], totals, databases, top)
    return figure


def _stacked(axis: Axes, counts: pd.DataFrame, sizes: pd.DataFrame) -> None:
    """Draw each layer's components by outermost category; the rest has no label."""
    sums: Any = counts.groupby("name", sort=False)["count"].sum()
    most = set(sums.nlargest(len(CATEGORIES)).index)
    order = [str(name) for name in sums.index if name in most]
    colours: dict[str, str] = dict(zip(order, CATEGORIES, strict=False))
    databases, rows = list(sizes["database"]), list[str]()
    by_layer: Any = counts.set_index(["database", "layer", "name"])["count"]
    for before, size in zip([databases[0], *databases], sizes.to_dict("records"), strict=False):
        database, layer = size["database"], size["layer"]
        if database != before:
            rows.append("")
        total, labelled = int(size["components"]), int(size["labelled"])
        found = [int(by_layer.get((database, layer, name), 0)) for name in colours]
        numbers = [*found, labelled - sum(found), total - labelled]  # or in no category at all
        parts = zip(numbers, (*colours.values(), REST, NONE), strict=True)
        stacked_bar(axis, len(rows), [(n / total, colour, str(n)) for n, colour in parts])
        rows.append(layer if len(set(databases)) == 1 else f"{database}/{layer}")
    if len(most) < len(sums):
        colours["other categories"] = REST
    colours["no label"] = NONE
    name_rows(axis, rows)
    axis.set(
        xlim=(0, 1), xlabel="share of the layer's components (number)",
        title="Components by category",
    )  # fmt: skip
    in_percent(axis.xaxis)
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axis.figure.legend(handles=handles, ncols=6, loc="outside lower left")


def _concepts(axis: Axes, totals: pd.DataFrame, databases: list[str], top: int) -> None:
    """Draw how many components the most frequent concepts have, the databases side by side."""
    leaves = totals.loc[totals["leaf"]]
    wide: Any = leaves.pivot_table(
        index="name", columns="database", values="count", aggfunc="sum", sort=False
    )[databases]
    most = wide.max(axis=1).sort_values(ascending=False, kind="stable").head(top)
    order = list(most[most > 0].index)
    counts = {name: wide.loc[order, name].to_numpy(float) for name in databases}
    counted_bars(axis, order, {name: (count, count) for name, count in counts.items()})
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="components", title="Most frequent concepts")
