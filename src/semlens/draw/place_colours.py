"""Colours of the places of a map: a hue for each, different from those of its neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from matplotlib.colors import to_hex, to_rgb

from semlens.draw.figure import PAPER

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
