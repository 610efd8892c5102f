"""The plot of a concept map: points, colours, legend, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from adjustText import adjust_text
from jaxtyping import Float32, Int64
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from semlens.draw.figure import HEAT, INK, LINE, PAPER, SERIES, SIGNED, SOFT, new_figure, styled
from semlens.draw.plot_elements import colour_bar, dot_handles


@dataclass(frozen=True)
class MapLabel:
    """The label of one cluster, its position, and the number of components of the cluster."""

    text: str
    x: float
    y: float
    size: int


@dataclass(frozen=True, eq=False)
class Groups:
    """Colouring by group; -1 is no group.

    Parameters
    ----------
    title
        Name of the grouping.
    ordered
        Whether the order of ``names`` is meaningful, as for layers.
    """

    title: str
    names: tuple[str, ...]
    group: Int64[np.ndarray, " n"]
    ordered: bool = False


@dataclass(frozen=True, eq=False)
class Queries:
    """Colouring by alignment with queries, one hue per query; below zero all points are pale."""

    names: tuple[str, ...]
    alignment: Float32[np.ndarray, "n q"]


@dataclass(frozen=True, eq=False)
class Scale:
    """Colouring by one value per point; NaN for missing values.

    Parameters
    ----------
    signed
        Whether zero is the middle of the colour scale.
    sized
        Whether points grow with the absolute value.
    column
        Name of the values in a table; empty for the title.
    """

    title: str
    values: Float32[np.ndarray, " n"]
    signed: bool = False
    sized: bool = False
    column: str = ""

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the scale: smallest and largest value; symmetric around zero if signed."""
        finite = self.values[np.isfinite(self.values)]
        if not len(finite):
            return 0.0, 0.0
        if self.signed:
            largest = float(np.abs(finite).max())
            return -largest, largest
        return float(finite.min()), float(finite.max())


Colouring = Groups | Queries | Scale


MAX_LABELS = 60
"""Maximum number of labels on one map."""
_SIZES = ((12, 9.0), (24, 8.0), (40, 7.0), (MAX_LABELS, 6.0))
_ROUNDS = 200
_SPARSE = 500


def write_labels(
    figure: Figure,
    axes: Axes,
    positions: Float32[np.ndarray, "n 2"],
    labels: Sequence[MapLabel],
    notes: Sequence[str] = (),
) -> int:
    """Write as many labels as fit, those of large clusters first.

    On maps with few points, labels avoid the points.

    Returns
    -------
    int
        Number of omitted labels, which is also written below the plot, after the notes.
    """
    selected = sorted(labels, key=lambda label: -label.size)[:MAX_LABELS]
    FigureCanvasAgg(figure)  # text has no size without a canvas
    axes.set_xlabel(" ", loc="left", fontsize=8)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on the axes must not move
    axes.autoscale(False)
    size = next(font_size for limit, font_size in _SIZES if len(selected) <= limit)
    halo = [patheffects.withStroke(linewidth=2.2, foreground=PAPER, alpha=0.9)]
    texts = [
        axes.text(
            label.x, label.y, label.text, fontsize=size, color=INK, ha="center", va="center",
            path_effects=halo, zorder=4,
        )
        for label in selected
    ]  # fmt: skip
    if texts:
        adjust_text(
            texts,
            *(positions.T if len(positions) <= _SPARSE else ()),
            ax=axes,
            avoid_self=False,
            expand=(1.06, 1.25),
            iter_lim=_ROUNDS,  # a time limit would make plots depend on the machine
        )
    hidden = len(labels) - _remove_overlaps(axes, texts, selected)
    left_out = f"No room for the labels of {hidden} of {len(labels)} clusters."
    axes.set_xlabel(" ".join([*notes, left_out] if hidden else notes), loc="left", fontsize=8)
    return hidden


def _remove_overlaps(axes: Axes, texts: Sequence[Any], labels: Sequence[MapLabel]) -> int:
    """Remove texts that overlap a larger cluster's text or the edge; return how many remain.

    A text that was moved away is connected with its position by a line.
    """
    frame = axes.get_window_extent()
    boxes: list[Bbox] = []
    for text, label in zip(texts, labels, strict=True):
        box = text.get_window_extent()
        inside = frame.contains(*box.min) and frame.contains(*box.max)
        if not inside or any(box.overlaps(other) for other in boxes):
            text.remove()
            continue
        boxes.append(box)
        anchor = axes.transData.transform((label.x, label.y))
        edge = np.clip(anchor, box.min, box.max)
        if np.hypot(*(anchor - edge)) >= 0.6 * box.height:
            ends = axes.transData.inverted().transform([edge, anchor])
            axes.plot(ends[:, 0], ends[:, 1], color=SOFT, linewidth=0.5, zorder=3)
    return len(boxes)


HUES = ("#d0312d", "#2f6fde", "#00856b", "#e0a100", "#b5539b", "#4aa8d8", "#7a5c3e", "#d9622b")
"""Hues of queries; red and blue first, as in the paper's Fig. 2b."""
_PALE = np.asarray(to_rgb("#d3dae2"))
_LEGEND = 16


@styled
def draw_map(
    positions: Float32[np.ndarray, "n 2"],
    colouring: Colouring,
    labels: Sequence[MapLabel],
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw the points, and as many labels as fit, largest clusters first."""
    figure, (axes,) = new_figure(8.2, 7.0)
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.margins(0.08)
    size = float(np.clip(9000 / max(len(positions), 1), 1.2, 34))
    match colouring:
        case Groups():
            _draw_groups(axes, positions, colouring, size)
        case Queries():
            _draw_queries(axes, positions, colouring, size)
        case Scale():
            _draw_scale(axes, positions, colouring, size)
    write_labels(figure, axes, positions, labels, notes)
    return figure


def _scatter(axes: Axes, positions: np.ndarray, **style: Any) -> Any:
    # rasterized, because 100 000 circles would make a vector file of 20 MB
    return axes.scatter(positions[:, 0], positions[:, 1], linewidths=0, rasterized=True, **style)


def group_colours(count: int, ordered: bool = False) -> list[Any]:
    """Return one colour per group; colours of unordered groups repeat after 20."""
    if count <= len(SERIES):
        return list(SERIES[:count])
    positions = np.arange(count) / (count - 1) if ordered else np.arange(count) % 20
    return mpl.colormaps["viridis" if ordered else "tab20"](positions).tolist()


def _draw_groups(axes: Axes, positions: np.ndarray, colouring: Groups, size: float) -> None:
    colours = group_colours(len(colouring.names), colouring.ordered)
    table = np.asarray(
        [to_rgb(colour) for colour in [*colours, LINE]]
    )  # index -1 is the last colour
    _scatter(axes, positions, c=table[colouring.group], s=size, alpha=0.85)
    if len(colours) <= _LEGEND:
        _legend(axes, dict(zip(colouring.names, colours, strict=True)))


def _draw_queries(axes: Axes, positions: np.ndarray, colouring: Queries, size: float) -> None:
    hues = np.asarray([to_rgb(HUES[i % len(HUES)]) for i in range(len(colouring.names))])
    strength, best = colouring.alignment.max(1), colouring.alignment.argmax(1)
    share = np.clip(strength / max(float(np.quantile(strength, 0.99)), 1e-6), 0, 1)[:, None]
    order = np.argsort(strength, kind="stable")  # strongest on top
    colour = (1 - share) * _PALE + share * hues[best]
    _scatter(axes, positions[order], c=colour[order], s=size)
    maxima = zip(colouring.names, colouring.alignment.max(0), strict=True)
    names = [f"{name} (max {maximum:.2f})" for name, maximum in maxima]
    _legend(axes, dict(zip(names, hues.tolist(), strict=True)), "alignment with")


def _draw_scale(axes: Axes, positions: np.ndarray, colouring: Scale, size: float) -> None:
    finite = np.isfinite(colouring.values)
    strength = np.abs(np.where(finite, colouring.values, 0))
    low, high = colouring.limits
    if low == high:
        low, high = low - 0.5, high + 0.5
    sizes = np.full(len(positions), size)
    if colouring.sized:
        sizes *= 0.35 + 2.2 * np.sqrt(strength / (strength.max(initial=0) or 1))
    _scatter(axes, positions[~finite], c=LINE, s=sizes[~finite])
    order = np.argsort(strength, kind="stable")
    order = order[finite[order]]
    points = _scatter(
        axes, positions[order], c=colouring.values[order], s=sizes[order], vmin=low, vmax=high,
        cmap=SIGNED if colouring.signed else HEAT,
    )  # fmt: skip
    colour_bar(axes, points, shrink=0.5, pad=0.01, aspect=28, label=colouring.title)


def _legend(axes: Axes, colours: Mapping[str, Any], title: str | None = None) -> None:
    width = max(map(len, colours), default=1) + 6
    columns = int(np.clip(110 // width, 1, len(colours) or 1))
    axes.figure.legend(
        handles=dot_handles(colours), loc="outside lower left", ncols=columns, title=title,
        alignment="left", title_fontsize=8, handletextpad=0.1,
    )  # fmt: skip
