"""Plots of a dissection: shares of categories per layer, and the category tree."""

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
"""Colours of the largest categories; the others share one colour."""
OTHER, DOUBTFUL, UNLABELLED = "#8b95a3", "#c9d1db", "#e6eaf0"


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
        Number of concepts.
    """
    databases = list(dict.fromkeys(sizes["database"]))
    outermost = counts.loc[(counts["depth"] == 1) & ~counts["leaf"]]
    stacked = len(outermost) > 0
    shown = min(top, np.count_nonzero(totals["leaf"] & (totals["count"] > 0)))
    row_height = 0.17 * len(databases) + 0.06
    bars = 0.34 * (len(sizes) + len(databases) - 1) + 1.6 if stacked else 0
    height = max(2.6, bars, row_height * max(shown, 1) + 1.5)
    widths = [6.2, 4.0] if stacked else [5.4]
    figure, axes = new_figure(sum(widths), height, 1, len(widths), width_ratios=widths)
    if stacked:
        _draw_categories(axes[0], outermost, sizes)
    _draw_concepts(axes[-1], totals, databases, top)
    return figure


def _draw_categories(axis: Axes, counts: pd.DataFrame, sizes: pd.DataFrame) -> None:
    """Draw the components of each layer by outermost category, then those without a label."""
    sums: Any = counts.groupby("name", sort=False)["count"].sum()
    largest = set(sums.nlargest(len(CATEGORIES)).index)
    colours: dict[str, str] = dict(
        zip([str(n) for n in sums.index if n in largest], CATEGORIES, strict=False)
    )
    databases, row_names = list(sizes["database"]), list[str]()
    by_layer: Any = counts.set_index(["database", "layer", "name"])["count"]
    for previous, size in zip([databases[0], *databases], sizes.to_dict("records"), strict=False):
        database, layer = size["database"], size["layer"]
        if database != previous:
            row_names.append("")
        total, labelled = int(size["components"]), int(size["labelled"])
        doubtful = int(size["doubtful"])
        category_counts = [int(by_layer.get((database, layer, name), 0)) for name in colours]
        others = labelled - sum(category_counts)  # in a smaller category, or in none
        all_counts = [*category_counts, others, doubtful, total - labelled - doubtful]
        segments = zip(all_counts, (*colours.values(), OTHER, DOUBTFUL, UNLABELLED), strict=True)
        stacked_bar(axis, len(row_names), [(n / total, colour, str(n)) for n, colour in segments])
        row_names.append(layer if len(set(databases)) == 1 else f"{database}/{layer}")
    if len(largest) < len(sums):
        colours["other categories"] = OTHER
    if np.count_nonzero(sizes["doubtful"]):
        colours["label too unsure"] = DOUBTFUL
    colours["no label"] = UNLABELLED
    name_rows(axis, row_names)
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


def _draw_concepts(axis: Axes, totals: pd.DataFrame, databases: list[str], top: int) -> None:
    """Draw the component counts of the most frequent concepts, databases side by side."""
    table: Any = totals.loc[totals["leaf"]].pivot_table(
        index="name", columns="database", values="count", aggfunc="sum", sort=False
    )[databases]
    frequencies = table.max(axis=1).sort_values(ascending=False, kind="stable").head(top)
    concepts = list(frequencies[frequencies > 0].index)
    counts = {name: table.loc[concepts, name].to_numpy(float) for name in databases}
    counted_bars(axis, concepts, {name: (count, count) for name, count in counts.items()})
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="components", title="Most frequent concepts")


ROW = 0.2
"""Height of a leaf, in inches."""


@dataclass
class _Branch:
    name: str
    count: int
    leaf: bool
    children: list[_Branch] = field(default_factory=list)
    muted: bool = False

    @property
    def text(self) -> str:
        return self.name if self.count < 0 else f"{self.name} ({self.count})"

    @property
    def rows(self) -> int:
        return sum(branch.rows for branch in self.children) or 1


@styled
def tree_figure(totals: pd.DataFrame, depth: int | None = None, top: int = 0) -> Figure:
    """Draw nested boxes from the outermost category at the left to the concepts at the right.

    Categories without components are drawn in grey, since they are gaps; concepts without
    components are counted in one grey line per category.

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
    _prune_tree(root, 1, depth, top)
    edges, level = [0.0], root.children
    while level:
        longest = max(len(branch.text) for branch in level)
        edges.append(edges[-1] + max(0.9, 0.08 * longest + 0.15))
        level = [child for branch in level for child in branch.children]
    figure, (axis,) = new_figure(edges[-1] + 0.3, root.rows * ROW + 0.3)
    axis.set_axis_off()
    axis.set(xlim=(0, edges[-1]), ylim=(root.rows, 0))
    _draw_branches(axis, root.children, 0, 0, edges, cycle(SERIES))
    return figure


def _tree(totals: pd.DataFrame) -> _Branch:
    root = _Branch("", 0, leaf=False)
    # categories only: a concept may have the name of a category beside it
    categories: dict[tuple[str, int], _Branch] = {("", 0): root}
    for row in totals.to_dict("records"):
        branch = _Branch(row["name"], int(row["count"]), bool(row["leaf"]))
        parent = str(row["path"])[: -len(row["name"])].removesuffix("/")
        categories[parent, row["depth"] - 1].children.append(branch)
        if not branch.leaf:
            categories[str(row["path"]), row["depth"]] = branch
    return root


def _prune_tree(branch: _Branch, level: int, depth: int | None, top: int) -> None:
    """Cut the tree at a depth; keep the most frequent concepts, and count the others in a line."""
    if depth is not None and level > depth:
        branch.children = []
        return
    leaves = [b for b in branch.children if b.leaf]
    frequent = sorted((b for b in leaves if b.count), key=lambda b: -b.count)
    shown = frequent[: top or len(frequent)]
    hidden, empty = frequent[len(shown) :], len(leaves) - len(frequent)
    children = [b for b in branch.children if not b.leaf] + shown
    if hidden:
        more = f"{len(hidden)} more concept{'s' if len(hidden) > 1 else ''}"
        children.append(_Branch(more, sum(b.count for b in hidden), leaf=True, muted=True))
    if empty:
        name = f"{empty} concept{'s' if empty > 1 else ''} without a component"
        children.append(_Branch(name, -1, leaf=True, muted=True))
    branch.children = children
    for child in children:
        _prune_tree(child, level + 1, depth, top)


def _draw_branches(
    axis: Axes,
    branches: list[_Branch],
    level: int,
    row: int,
    edges: list[float],
    colours: Iterable[str],
) -> None:
    """Draw each branch as a box spanning the rows of its leaves, paler with every level."""
    for branch, colour in zip(branches, colours, strict=False):
        muted = branch.muted or branch.count == 0
        strength = 1.0 if muted or level == 0 else max(0.14, 0.5 - 0.16 * level)
        axis.add_patch(
            Rectangle((edges[level], row), edges[level + 1] - edges[level], branch.rows,
                      facecolor="#f2f4f7" if muted else colour, alpha=strength,
                      edgecolor=PAPER, linewidth=1.2)
        )  # fmt: skip
        ink = SOFT if muted else (PAPER if level == 0 else INK)
        axis.text(edges[level] + 0.06, row + branch.rows / 2, branch.text, va="center",
                  fontsize=7.5, color=ink, style="italic" if branch.muted else "normal",
                  fontweight="bold" if level == 0 and not muted else "normal")  # fmt: skip
        _draw_branches(axis, branch.children, level + 1, row, edges, repeat(colour))
        row += branch.rows
