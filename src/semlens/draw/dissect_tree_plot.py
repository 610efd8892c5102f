"""A tree of categories and concepts with numbers of components in brackets (paper, Fig. D.5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from semlens.draw.figure import INK, PAPER, SERIES, SOFT, new_figure, styled

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
    longest = [max(len(_text(branch)) for branch in level) for level in _levels(root)]
    widths = [max(0.9, 0.08 * letters + 0.15) for letters in longest]
    edges = [float(sum(widths[:i])) for i in range(len(widths) + 1)]
    figure, (axis,) = new_figure(edges[-1] + 0.3, root.rows * ROW + 0.3)
    axis.set_axis_off()
    axis.set(xlim=(0, edges[-1]), ylim=(root.rows, 0))
    row = 0
    for number, branch in enumerate(root.below):
        _draw(axis, branch, 0, row, edges, SERIES[number % len(SERIES)])
        row += branch.rows
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
        name = f"{len(rest)} more concept{'s' if len(rest) > 1 else ''}"
        below.append(_Branch(name, sum(b.count for b in rest), leaf=True, quiet=True))
    if silent:
        name = f"{silent} concept{'s' if silent > 1 else ''} without a component"
        below.append(_Branch(name, -1, leaf=True, quiet=True))
    branch.below = below
    for child in below:
        _shorten(child, level + 1, depth, top)


def _levels(root: _Branch) -> Iterator[list[_Branch]]:
    level = root.below
    while level:
        yield level
        level = [child for branch in level for child in branch.below]


def _text(branch: _Branch) -> str:
    return branch.name if branch.count < 0 else f"{branch.name} ({branch.count})"


def _draw(
    axis: Axes, branch: _Branch, level: int, row: int, edges: list[float], colour: str
) -> None:
    """Draw a branch as a box over the rows of what it holds, paler with every level."""
    pale = branch.quiet or branch.count == 0
    shade = "#f2f4f7" if pale else colour
    strength = 1.0 if pale or level == 0 else max(0.14, 0.5 - 0.16 * level)
    wide = edges[level + 1] - edges[level]
    axis.add_patch(
        Rectangle((edges[level], row), wide, branch.rows, facecolor=shade, alpha=strength,
                  edgecolor=PAPER, linewidth=1.2)
    )  # fmt: skip
    ink = SOFT if pale else (PAPER if level == 0 else INK)
    axis.text(edges[level] + 0.06, row + branch.rows / 2, _text(branch), va="center", fontsize=7.5,
              color=ink, style="italic" if branch.quiet else "normal",
              fontweight="bold" if level == 0 and not pale else "normal")  # fmt: skip
    for child in branch.below:
        _draw(axis, child, level + 1, row, edges, colour)
        row += child.rows
