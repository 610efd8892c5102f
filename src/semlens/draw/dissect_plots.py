"""Plots of a dissection: shares of categories by layer, and the tree of categories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle, repeat
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from semlens.draw.figure import INK, PAPER, SERIES, SOFT, new_figure, styled
from semlens.draw.plot_elements import counted_bars, in_percent, name_rows, stacked_bar

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
    bars = 0.34 * (len(sizes) + len(databases) - 1) + 1.6 if stacked else 0
    height = max(2.6, bars, high * max(names, 1) + 1.5)
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
    colours: dict[str, str] = dict(
        zip([str(n) for n in sums.index if n in most], CATEGORIES, strict=False)
    )
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
    axis.figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        ncols=6,
        loc="outside lower left",
    )


def _concepts(axis: Axes, totals: pd.DataFrame, databases: list[str], top: int) -> None:
    """Draw how many components the most frequent concepts have, the databases side by side."""
    wide: Any = totals.loc[totals["leaf"]].pivot_table(
        index="name", columns="database", values="count", aggfunc="sum", sort=False
    )[databases]
    most = wide.max(axis=1).sort_values(ascending=False, kind="stable").head(top)
    order = list(most[most > 0].index)
    counts = {name: wide.loc[order, name].to_numpy(float) for name in databases}
    counted_bars(axis, order, {name: (count, count) for name, count in counts.items()})
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="components", title="Most frequent concepts")


ROW = 0.2
"""Height of a tip, in inches."""


@dataclass
class _Branch:
    name: str
    count: int
    leaf: bool
    below: list[_Branch] = field(default_factory=list)
    quiet: bool = False

    @property
    def text(self) -> str:
        return self.name if self.count < 0 else f"{self.name} ({self.count})"

    @property
    def rows(self) -> int:
        return sum(branch.rows for branch in self.below) or 1


@styled
def tree_figure(totals: pd.DataFrame, depth: int | None = None, top: int = 0) -> Figure:
    """Draw nested boxes from the outermost category at the left to the concepts at the right.

    Categories without any component stay, grey, since they are gaps; concepts without one are
    counted in one grey line per category.

    Parameters
    ----------
    totals
        Rows of one database of a ``Dissection``: path, name, depth, leaf, count.
    depth
        Levels to draw; None for all.
    top
        Concepts drawn per category, the most frequent; 0 for all.
    """
    root = _tree(totals)
    _shorten(root, 1, depth, top)
    edges, level = [0.0], root.below
    while level:
        longest = max(len(branch.text) for branch in level)
        edges.append(edges[-1] + max(0.9, 0.08 * longest + 0.15))
        level = [child for branch in level for child in branch.below]
    figure, (axis,) = new_figure(edges[-1] + 0.3, root.rows * ROW + 0.3)
    axis.set_axis_off()
    axis.set(xlim=(0, edges[-1]), ylim=(root.rows, 0))
    _draw(axis, root.below, 0, 0, edges, cycle(SERIES))
    return figure


def _tree(totals: pd.DataFrame) -> _Branch:
    root = _Branch("", 0, leaf=False)
    # a concept may have the name of a category beside it
    known: dict[tuple[str, int], _Branch] = {("", 0): root}
    for row in totals.to_dict("records"):
        branch = _Branch(row["name"], int(row["count"]), bool(row["leaf"]))
        parent = str(row["path"])[: -len(row["name"])].removesuffix("/")
        known[parent, row["depth"] - 1].below.append(branch)
        if not branch.leaf:
            known[str(row["path"]), row["depth"]] = branch
    return root


def _shorten(branch: _Branch, level: int, depth: int | None, top: int) -> None:
    """Cut below a depth; keep the most frequent concepts and count the others in one line."""
    if depth is not None and level > depth:
        branch.below = []
        return
    tips = [b for b in branch.below if b.leaf]
    found = sorted((b for b in tips if b.count), key=lambda b: -b.count)
    shown = found[: top or len(found)]
    rest, silent = found[len(shown) :], len(tips) - len(found)
    below = [b for b in branch.below if not b.leaf] + shown
    if rest:
        more = f"{len(rest)} more concept{'s' if len(rest) > 1 else ''}"
        below.append(_Branch(more, sum(b.count for b in rest), leaf=True, quiet=True))
    if silent:
        name = f"{silent} concept{'s' if silent > 1 else ''} without a component"
        below.append(_Branch(name, -1, leaf=True, quiet=True))
    branch.below = below
    for child in below:
        _shorten(child, level + 1, depth, top)


def _draw(
    axis: Axes,
    branches: list[_Branch],
    level: int,
    row: int,
    edges: list[float],
    colours: Iterable[str],
) -> None:
    """Draw each branch as a box over the rows of what it holds, paler with every level."""
    for branch, colour in zip(branches, colours, strict=False):
        pale = branch.quiet or branch.count == 0
        strength = 1.0 if pale or level == 0 else max(0.14, 0.5 - 0.16 * level)
        axis.add_patch(
            Rectangle((edges[level], row), edges[level + 1] - edges[level], branch.rows,
                      facecolor="#f2f4f7" if pale else colour, alpha=strength,
                      edgecolor=PAPER, linewidth=1.2)
        )  # fmt: skip
        ink = SOFT if pale else (PAPER if level == 0 else INK)
        axis.text(edges[level] + 0.06, row + branch.rows / 2, branch.text, va="center",
                  fontsize=7.5, color=ink, style="italic" if branch.quiet else "normal",
                  fontweight="bold" if level == 0 and not pale else "normal")  # fmt: skip
        _draw(axis, branch.below, level + 1, row, edges, repeat(colour))
        row += branch.rows
