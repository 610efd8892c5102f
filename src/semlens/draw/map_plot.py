"""The map: its points and colours, the legend, and labels that keep clear of each other."""

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
    """The text of one cluster, where it belongs, and how many components it stands for."""

    text: str
    x: float
    y: float
    size: int


@dataclass(frozen=True, eq=False)
class Groups:
    """Each point belongs to one of some groups, or to none (-1).

    Parameters
    ----------
    title
        What the groups are.
    ordered
        Whether neighbours in ``names`` are alike, as layers from first to last.
    """

    title: str
    names: tuple[str, ...]
    group: Int64[np.ndarray, " n"]
    ordered: bool = False


@dataclass(frozen=True, eq=False)
class Queries:
    """How much each point aligns with each query; none has a hue of its own below zero."""

    names: tuple[str, ...]
    alignment: Float32[np.ndarray, "n q"]


@dataclass(frozen=True, eq=False)
class Scale:
    """One value per point, NaN where there is none.

    Parameters
    ----------
    signed
        Whether zero is the middle.
    sized
        Whether larger absolute values are larger points, too.
    """

    title: str
    values: Float32[np.ndarray, " n"]
    signed: bool = False
    sized: bool = False

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the scale: least and largest value; of signed ones the farthest, both ways."""
        known = self.values[np.isfinite(self.values)]
        if not len(known):
            return 0.0, 0.0
        if self.signed:
            far = float(np.abs(known).max())
            return -far, far
        return float(known.min()), float(known.max())


Colouring = Groups | Queries | Scale


MOST = 60
"""Labels on one map at most."""
_SIZES = ((12, 9.0), (24, 8.0), (40, 7.0), (MOST, 6.0))
_ROUNDS = 200
_SPARSE = 500


def write_labels(
    figure: Figure,
    axes: Axes,
    where: Float32[np.ndarray, "n 2"],
    labels: Sequence[MapLabel],
    notes: Sequence[str] = (),
) -> int:
    """Write the labels that there is room for, those of large clusters first.

    On maps with few points they stand beside the points, else over them.

    Returns
    -------
    int
        How many were left out; the line below the plot says so, after the notes.
    """
    wanted = sorted(labels, key=lambda label: -label.size)[:MOST]
    FigureCanvasAgg(figure)  # text has no size before it has a canvas
    axes.set_xlabel(" ", loc="left", fontsize=8)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what follows must not move the axes
    axes.autoscale(False)
    size = next(points for most, points in _SIZES if len(wanted) <= most)
    halo = [patheffects.withStroke(linewidth=2.2, foreground=PAPER, alpha=0.9)]
    texts = [
        axes.text(
            label.x, label.y, label.text, fontsize=size, color=INK, ha="center", va="center",
            path_effects=halo, zorder=4,
        )
        for label in wanted
    ]  # fmt: skip
    if texts:
        adjust_text(
            texts,
            *(where.T if len(where) <= _SPARSE else ()),
            ax=axes,
            avoid_self=False,
            expand=(1.06, 1.25),
            iter_lim=_ROUNDS,  # a limit in seconds would give another plot on another machine
        )
    hidden = len(labels) - _keep_apart(axes, texts, wanted)
    left_out = f"No room for the labels of {hidden} of {len(labels)} clusters."
    axes.set_xlabel(" ".join([*notes, left_out] if hidden else notes), loc="left", fontsize=8)
    return hidden


def _keep_apart(axes: Axes, texts: Sequence[Any], labels: Sequence[MapLabel]) -> int:
    """Remove texts that touch one of a larger cluster, or the edge; return how many stay.

    A line leads from a text that was moved away to where it belongs.
    """
    frame = axes.get_window_extent()
    kept: list[Bbox] = []
    for text, label in zip(texts, labels, strict=True):
        box = text.get_window_extent()
        inside = frame.contains(*box.min) and frame.contains(*box.max)
        if not inside or any(box.overlaps(other) for other in kept):
            text.remove()
            continue
        kept.append(box)
        home = axes.transData.transform((label.x, label.y))
        near = np.clip(home, box.min, box.max)
        if np.hypot(*(home - near)) >= 0.6 * box.height:
            ends = axes.transData.inverted().transform([near, home])
            axes.plot(ends[:, 0], ends[:, 1], color=SOFT, linewidth=0.5, zorder=3)
    return len(kept)


HUES = ("#d0312d", "#2f6fde", "#00856b", "#e0a100", "#b5539b", "#4aa8d8", "#7a5c3e", "#d9622b")
"""One per query; red and blue first, as in the paper's Fig. 2b."""
_PALE = np.asarray(to_rgb("#d3dae2"))
_LEGEND = 16


@styled
def draw_map(
    where: Float32[np.ndarray, "n 2"],
    colouring: Colouring,
    labels: Sequence[MapLabel],
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw points and as many of the labels as there is room for, largest clusters first."""
    figure, (axes,) = new_figure(8.2, 7.0)
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.margins(0.08)
    size = float(np.clip(9000 / max(len(where), 1), 1.2, 34))
    match colouring:
        case Groups():
            _draw_groups(axes, where, colouring, size)
        case Queries():
            _draw_queries(axes, where, colouring, size)
        case Scale():
            _draw_scale(axes, where, colouring, size)
    write_labels(figure, axes, where, labels, notes)
    return figure


def _scatter(axes: Axes, where: np.ndarray, **style: Any) -> Any:
    # as pixels in vector files: 100 000 circles would be a file of 20 MB
    return axes.scatter(where[:, 0], where[:, 1], linewidths=0, rasterized=True, **style)


def group_colours(count: int, ordered: bool = False) -> list[Any]:
    """Return a colour for each of some groups; they recur where there are over 20."""
    if count <= len(SERIES):
        return list(SERIES[:count])
    places = np.arange(count) / (count - 1) if ordered else np.arange(count) % 20
    return mpl.colormaps["viridis" if ordered else "tab20"](places).tolist()


def _draw_groups(axes: Axes, where: np.ndarray, colouring: Groups, size: float) -> None:
    colours = group_colours(len(colouring.names), colouring.ordered)
    table = np.asarray([to_rgb(colour) for colour in [*colours, LINE]])  # -1 is the last
    _scatter(axes, where, c=table[colouring.group], s=size, alpha=0.85)
    if len(colours) <= _LEGEND:
        _legend(axes, dict(zip(colouring.names, colours, strict=True)))


def _draw_queries(axes: Axes, where: np.ndarray, colouring: Queries, size: float) -> None:
    hues = np.asarray([to_rgb(HUES[i % len(HUES)]) for i in range(len(colouring.names))])
    strength, best = colouring.alignment.max(1), colouring.alignment.argmax(1)
    share = np.clip(strength / max(float(np.quantile(strength, 0.99)), 1e-6), 0, 1)[:, None]
    order = np.argsort(strength, kind="stable")  # the strongest on top
    colour = (1 - share) * _PALE + share * hues[best]
    _scatter(axes, where[order], c=colour[order], s=size)
    tops = zip(colouring.names, colouring.alignment.max(0), strict=True)
    names = [f"{name} (max {top:.2f})" for name, top in tops]
    _legend(axes, dict(zip(names, hues.tolist(), strict=True)), "alignment with")


def _draw_scale(axes: Axes, where: np.ndarray, colouring: Scale, size: float) -> None:
    known = np.isfinite(colouring.values)
    strength = np.abs(np.where(known, colouring.values, 0))
    low, high = colouring.limits
    if low == high:
        low, high = low - 0.5, high + 0.5
    sizes = np.full(len(where), size)
    if colouring.sized:
        sizes *= 0.35 + 2.2 * np.sqrt(strength / (strength.max(initial=0) or 1))
    _scatter(axes, where[~known], c=LINE, s=sizes[~known])
    order = np.argsort(strength, kind="stable")
    order = order[known[order]]
    points = _scatter(
        axes, where[order], c=colouring.values[order], s=sizes[order], vmin=low, vmax=high,
        cmap=SIGNED if colouring.signed else HEAT,
    )  # fmt: skip
    colour_bar(axes, points, shrink=0.5, pad=0.01, aspect=28, label=colouring.title)


def _legend(axes: Axes, colours: Mapping[str, Any], title: str | None = None) -> None:
    wide = max(map(len, colours), default=1) + 6
    columns = int(np.clip(110 // wide, 1, len(colours) or 1))
    axes.figure.legend(
        handles=dot_handles(colours), loc="outside lower left", ncols=columns, title=title,
        alignment="left", title_fontsize=8, handletextpad=0.1,
    )  # fmt: skip
