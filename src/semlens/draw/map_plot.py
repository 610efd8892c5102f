"""A map of components as a plot: points coloured by one thing, clusters with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from semlens.draw.figure import HEAT, LINE, SERIES, SIGNED, new_figure, styled
from semlens.draw.map_labels import write_labels
from semlens.draw.map_parts import Colouring, Groups, MapLabel, Queries, Scale
from semlens.draw.marks import colour_bar, dot_handles

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
    if isinstance(colouring, Groups):
        _draw_groups(axes, where, colouring, size)
    elif isinstance(colouring, Queries):
        _draw_queries(axes, where, colouring, size)
    else:
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
    if ordered:
        return [mpl.colormaps["viridis"](i / (count - 1)) for i in range(count)]
    return [mpl.colormaps["tab20"](i % 20) for i in range(count)]


def _draw_groups(axes: Axes, where: np.ndarray, colouring: Groups, size: float) -> None:
    colours = group_colours(len(colouring.names), colouring.ordered)
    table = np.asarray([to_rgb(colour) for colour in [*colours, LINE]])  # -1 is the last
    _scatter(axes, where, c=table[colouring.group], s=size, alpha=0.85)
    if len(colours) <= _LEGEND:
        _legend(axes, dict(zip(colouring.names, colours, strict=True)))


def _draw_queries(axes: Axes, where: np.ndarray, colouring: Queries, size: float) -> None:
    hues = np.asarray([to_rgb(HUES[i % len(HUES)]) for i in range(len(colouring.names))])
    strength, best = colouring.alignment.max(1), colouring.alignment.argmax(1)
    full = max(float(np.quantile(strength, 0.99)), 1e-6)
    share = np.clip(strength / full, 0, 1)[:, None]
    order = np.argsort(strength, kind="stable")  # the strongest on top
    colour = (1 - share) * _PALE + share * hues[best]
    _scatter(axes, where[order], c=colour[order], s=size)
    tops = colouring.alignment.max(0)
    names = [f"{n} (max {t:.2f})" for n, t in zip(colouring.names, tops, strict=True)]
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
    longest = max(map(len, colours), default=1)
    columns = int(np.clip(110 // (longest + 6), 1, len(colours) or 1))
    axes.figure.legend(
        handles=dot_handles(colours), loc="outside lower left", ncols=columns, title=title,
        alignment="left", title_fontsize=8, handletextpad=0.1,
    )  # fmt: skip
