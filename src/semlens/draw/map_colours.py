"""Colourings of a map: what gives each point its colour, and the legend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float32, Float64, Int64
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb

from semlens.draw.figure import HEAT, LINE, PAPER, SERIES, SIGNED
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


DARK_PAPER = "#13171c"
"""Background of the dark theme."""
LEAST_CONTRAST = 3.0
"""WCAG 2.2, 1.4.11: graphical objects against their background."""
OPACITY = 0.86
"""Least opacity of a point; the contrast holds with it."""
_CHROMA = 0.16
_LIGHTNESS = {PAPER: (0.6, 0.47, 0.66), DARK_PAPER: (0.7, 0.8, 0.6)}
"""Lightness of a few places, and of alternating ones where there are more than a dozen."""
_FEW = 12
_REACH = 0.2
"""Distance at which places are neighbours, as a share of the map's width."""


class PlaceColour(NamedTuple):
    """The colour of a place on light and on dark paper, as ``#rrggbb``."""

    light: str
    dark: str


def place_colours(
    positions: Float32[np.ndarray, "p 2"], sizes: Int64[np.ndarray, " p"]
) -> list[PlaceColour]:
    """Return a colour per place, as many hues as places.

    The hues are evenly spaced in OKLCH (B. Ottosson, 2020). The largest place chooses first; each
    takes the colour that differs most from those of the places near it.
    """
    count = len(positions)
    tiers = 1 if count <= _FEW else 2 if count <= 2 * _FEW else 3
    choices = [
        [_colour(index, count, paper, tiers) for index in range(count)]
        for paper in (PAPER, DARK_PAPER)
    ]
    lab = np.asarray([oklab(np.asarray(to_rgb(colour))) for colour in choices[0]]).reshape(-1, 3)
    span = max(float(np.ptp(positions, axis=0).max(initial=0)), 1e-9) if count else 1.0
    away = np.linalg.norm(positions[:, None] - positions[None], axis=2) / span
    near = np.exp(-0.5 * np.square(away / _REACH))
    alike = 1 / (np.square(lab[:, None] - lab[None]).sum(2) + 1e-4)
    chosen = np.full(count, -1)
    free = np.ones(count, bool)
    for place in np.argsort(-sizes, kind="stable"):
        done = chosen >= 0
        cost = alike[:, chosen[done]] @ near[place, done]
        chosen[place] = np.where(free, cost, np.inf).argmin()
        free[chosen[place]] = False
    return [PlaceColour(choices[0][index], choices[1][index]) for index in chosen]


def _colour(index: int, count: int, paper: str, tiers: int) -> str:
    """Return a colour of even hue that stands out from the paper."""
    lightness = _LIGHTNESS[paper][index % tiers]
    step = 0.01 if paper == DARK_PAPER else -0.01
    angle = 2 * np.pi * index / count
    while True:
        colour = _in_gamut(lightness, angle)
        if contrast(colour, paper, OPACITY) >= LEAST_CONTRAST:
            return colour
        lightness += step


def _in_gamut(lightness: float, angle: float) -> str:
    """Return the most colourful colour of a hue that a screen can show, up to a chroma."""
    colours = (
        _rgb(np.array([lightness, chroma * np.cos(angle), chroma * np.sin(angle)]))
        for chroma in np.linspace(_CHROMA, 0, 33)
    )
    # without chroma it is a grey, which every screen can show
    red, green, blue = next(c for c in colours if c.min() >= -1e-6 and c.max() <= 1 + 1e-6)
    return to_hex(tuple(np.clip((red, green, blue), 0, 1).tolist()))


def contrast(colour: str, paper: str, opacity: float = 1.0) -> float:
    """Return the WCAG contrast of a colour, painted on paper with an opacity."""
    ground = np.asarray(to_rgb(paper))
    painted = opacity * np.asarray(to_rgb(colour)) + (1 - opacity) * ground
    light, dark = sorted((_luminance(painted), _luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: Float64[np.ndarray, 3]) -> float:
    return float(_linear(rgb) @ np.array([0.2126, 0.7152, 0.0722]))


def _linear(rgb: Float64[np.ndarray, 3]) -> Float64[np.ndarray, 3]:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(rgb: Float64[np.ndarray, 3]) -> Float64[np.ndarray, 3]:
    """Return lightness, a and b of an sRGB colour in 0..1."""
    return _TO_LAB @ np.cbrt(_TO_LMS @ _linear(rgb))


def _rgb(lab: Float64[np.ndarray, 3]) -> Float64[np.ndarray, 3]:
    """Return the sRGB colour, outside 0..1 if a screen cannot show it."""
    linear = np.linalg.solve(_TO_LMS, np.linalg.solve(_TO_LAB, lab) ** 3)
    curved = 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055
    return np.where(np.abs(linear) <= 0.0031308, 12.92 * linear, np.sign(linear) * curved)
