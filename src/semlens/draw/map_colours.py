"""Colourings of a map: what gives each point its colour, and the legend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float32, Float64, Int64
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb

from semlens.draw.figure import HEAT, LINE, SERIES, SIGNED
from semlens.draw.plot_elements import colour_bar, dot_handles


@dataclass(frozen=True, eq=False)
class Groups:
    """Colouring by group; -1 is no group.

    Parameters
    ----------
    title
        Name of the grouping.
    ordered
        Whether the order of ``names`` is meaningful, as for layers.
    colours
        Colours of the groups; chosen when drawn if there are none.
    """

    title: str
    names: tuple[str, ...]
    group: Int64[np.ndarray, " n"]
    ordered: bool = False
    colours: tuple[str, ...] = ()


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


HUES = ("#d0312d", "#2f6fde", "#00856b", "#e0a100", "#b5539b", "#4aa8d8", "#7a5c3e", "#d9622b")
"""Hues of queries; red and blue first, as in the paper's Fig. 2b."""
_PALE = np.asarray(to_rgb("#d3dae2"))
_LEGEND = 16


@dataclass(frozen=True, eq=False)
class PointColours:
    """How points are drawn.

    Parameters
    ----------
    colour
        Red, green, blue in 0..1.
    size
        Area of a dot, relative to a normal one.
    rank
        Points of higher rank are drawn on top.
    """

    colour: Float64[np.ndarray, "n 3"]
    size: Float64[np.ndarray, " n"]
    rank: Float64[np.ndarray, " n"]


def point_colours(colouring: Colouring) -> PointColours:
    """Return how the points of a colouring are drawn."""
    match colouring:
        case Groups():
            colours = group_colours(colouring)
            # index -1 is the last colour
            table = np.asarray([to_rgb(colour) for colour in [*colours, LINE]])
            group = colouring.group
            return PointColours(table[group], np.ones(len(group)), (group >= 0).astype(float))
        case Queries():
            hues = np.asarray([to_rgb(HUES[i % len(HUES)]) for i in range(len(colouring.names))])
            strength, best = colouring.alignment.max(1), colouring.alignment.argmax(1)
            limit = max(float(np.quantile(strength, 0.99)), 1e-6)
            share = np.clip(strength / limit, 0, 1)[:, None].astype(float)
            mixed = (1 - share) * _PALE + share * hues[best]
            return PointColours(mixed, np.ones(len(strength)), strength.astype(float))
        case Scale():
            return _scale_colours(colouring)


def _scale_colours(colouring: Scale) -> PointColours:
    finite = np.isfinite(colouring.values)
    strength = np.abs(np.where(finite, colouring.values, 0)).astype(float)
    colours = _mappable(colouring).to_rgba(np.where(finite, colouring.values, 0))[:, :3]
    colours[~finite] = to_rgb(LINE)
    sizes = np.ones(len(finite))
    if colouring.sized:
        sizes *= 0.35 + 2.2 * np.sqrt(strength / (strength.max(initial=0) or 1))
    return PointColours(colours, sizes, np.where(finite, strength, -1))


def _mappable(colouring: Scale) -> ScalarMappable:
    low, high = colouring.limits
    if low == high:
        low, high = low - 0.5, high + 0.5
    return ScalarMappable(Normalize(low, high), SIGNED if colouring.signed else HEAT)


def group_colours(colouring: Groups) -> list[Any]:
    """Return one colour per group; colours of unordered groups repeat after 20."""
    count = len(colouring.names)
    if colouring.colours:
        return list(colouring.colours)
    if count <= len(SERIES):
        return list(SERIES[:count])
    ordered = colouring.ordered
    positions = np.arange(count) / (count - 1) if ordered else np.arange(count) % 20
    return mpl.colormaps["viridis" if ordered else "tab20"](positions).tolist()


def draw_legend(axes: Axes, colouring: Colouring) -> None:
    """Explain the colours. Places have their names on the map."""
    match colouring:
        case Groups():
            if len(colouring.names) <= _LEGEND and not colouring.colours:
                _legend(axes, dict(zip(colouring.names, group_colours(colouring), strict=True)))
        case Queries():
            maxima = zip(colouring.names, colouring.alignment.max(0), strict=True)
            names = [f"{name} (max {maximum:.2f})" for name, maximum in maxima]
            hues = [HUES[i % len(HUES)] for i in range(len(names))]
            _legend(axes, dict(zip(names, hues, strict=True)), "alignment with")
        case Scale():
            bar = _mappable(colouring)
            colour_bar(axes, bar, shrink=0.5, pad=0.01, aspect=28, label=colouring.title)


def _legend(axes: Axes, colours: Mapping[str, Any], title: str | None = None) -> None:
    width = max(map(len, colours), default=1) + 6
    columns = int(np.clip(110 // width, 1, len(colours) or 1))
    axes.figure.legend(
        handles=dot_handles(colours), loc="outside lower left", ncols=columns, title=title,
        alignment="left", title_fontsize=8, handletextpad=0.1,
    )  # fmt: skip
