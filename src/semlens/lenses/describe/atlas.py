"""How a map is drawn: components spread out to make room for crops and names, and outlines.

Only neighbourhoods have a meaning on a map, not directions or distances. So the picture may turn
it to fit a page, shorten empty stretches, and, where there are few components, move them apart
until each has room for a crop. The order along both axes is kept up to the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import contourpy
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.ndimage import gaussian_filter

from semlens.draw.map_colours import PlaceColour, place_colours
from semlens.lenses.describe.clusters import medoid

CELLS = 4
"""Cells of the grid per standard deviation of the kernel."""
LEVEL = 0.35
"""Density of an outline, relative to that of a component at the edge of its place."""
_EDGE = 0.1
"""Quantile of the density at a place's components that is its edge."""
_MARGIN = 3.0
_SMALLEST = 0.05
"""Islands with a smaller share of their place's area are left out."""

Ring = Float32[np.ndarray, "_ 2"]


def outlines(
    points: Float32[np.ndarray, "n 2"],
    place: Int64[np.ndarray, " n"],
    places: Sequence[int],
    bandwidth: float,
) -> list[list[Ring]]:
    """Return the rings around each place: outer borders and holes, for the even-odd rule.

    A place is where the density of its components (a Gaussian kernel) exceeds that of any other
    place by ``LEVEL`` of its density at the edge. So outlines never overlap, and stray components
    have none.

    Parameters
    ----------
    places
        The places that get an outline; all components count as others.
    bandwidth
        Standard deviation of the kernel.
    """
    if not len(points) or not places:
        return [[] for _ in places]
    low = points.min(0) - _MARGIN * bandwidth
    cell = bandwidth / CELLS
    at = np.rint((points - low) / cell).astype(np.int64)
    shape = tuple((at.max(0) + 1 + int(_MARGIN * CELLS)).tolist())
    numbers = np.unique(place)
    density = np.stack([_density(at[place == number], shape) for number in numbers])
    ranked = np.sort(density, axis=0) if len(numbers) > 1 else np.zeros((2, *shape))
    result: list[list[Ring]] = []
    for number in places:
        own = density[np.searchsorted(numbers, number)]
        others = np.where(own >= ranked[-1], ranked[-2], ranked[-1])
        if len(numbers) == 1:
            others = np.zeros(shape)
        inside = at[place == number]
        edge = float(np.quantile(own[inside[:, 0], inside[:, 1]], _EDGE))
        score = own / (LEVEL * edge + others)
        lines = contourpy.contour_generator(z=score.T).lines(1.0)
        rings = [np.asarray(line)[::2] for line in lines if len(line) >= 2 * CELLS]
        areas = [abs(_area(ring)) for ring in rings]
        result.append(
            [
                (ring * cell + low).astype(np.float32)
                for ring, area in zip(rings, areas, strict=True)
                if area >= _SMALLEST * sum(areas)
            ]
        )
    return result


def _density(at: Int64[np.ndarray, "m 2"], shape: tuple[int, ...]) -> Float64[np.ndarray, "w h"]:
    """Return the sum of kernels, each 1 at its component."""
    counts = np.zeros(shape)
    np.add.at(counts, (at[:, 0], at[:, 1]), 1)
    return gaussian_filter(counts, CELLS, mode="constant") * 2 * np.pi * CELLS**2


def _area(ring: Float64[np.ndarray, "v 2"]) -> float:
    x, y = ring.T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


FEW = 300
"""Up to this many components, each has room for a crop."""
ASPECT, ASPECT_OF_FEW = 1.15, 1.35
"""Width of the map in heights; of few components, before names make it higher."""
_FILL = 0.36
"""Share of the map that crops fill; the rest is for names and distances."""
_EVEN = 0.7
"""How much empty stretches are shortened: 0 keeps distances, 1 only the order along both axes."""
_APART = 0.3
"""Further distance between components of different places."""
_LETTER, _LINE = 0.23, 0.34
"""Width of a letter and half the height of a name, in crops."""
_ROUNDS = 300
_ENOUGH = 0.04
"""Overlap that is left, in crops."""
_STEP = 0.25
_ALONE = 1.0
"""Distance from other places that is enough for a name, in crops."""
_WIDTHS = 60
"""Bandwidth of outlines on large maps: the map's width over this number."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """What a picture of a map shows. A unit is the side of a crop.

    Parameters
    ----------
    points
        Position of each component.
    names
        Position of the middle of each place's name; NaN where it has none.
    medoids
        The component in the middle of each place.
    hulls
        Rings around each place with a name.
    colours
        Colour of each place.
    spread
        Whether each component has room for a crop.
    """

    points: Float32[np.ndarray, "n 2"]
    names: Float32[np.ndarray, "p 2"]
    medoids: Int64[np.ndarray, " p"]
    hulls: list[list[Ring]]
    colours: list[PlaceColour]
    spread: bool


def make_atlas(
    positions: Float32[np.ndarray, "n 2"], place: Int64[np.ndarray, " n"], names: Sequence[str]
) -> Atlas:
    """Arrange components for a picture.

    Parameters
    ----------
    positions
        The layout of the map.
    place
        int64[n], the place of each component; -1 for none.
    names
        Names of the places; empty for none.
    """
    points = fit(positions)
    named = np.asarray([bool(name) for name in names], bool)
    labels = np.full((len(names), 2), np.nan)
    spread = 1 < len(points) <= FEW
    if spread:
        widths = np.asarray([len(name) * _LETTER for name in names])[named]
        points, labels[named] = _spread(points, place, np.flatnonzero(named), widths)
    small = points.astype(np.float32)
    medoids = np.asarray(
        [medoid(small, np.flatnonzero(place == number)) for number in range(len(names))], np.int64
    )
    if not spread:
        labels[named] = points[medoids[named]]
    bandwidth = max(0.6, float(np.ptp(points[:, 0])) / _WIDTHS if len(points) else 0.6)
    rings = iter(outlines(small, place, np.flatnonzero(named).tolist(), bandwidth))
    return Atlas(
        small,
        labels.astype(np.float32),
        medoids,
        [next(rings) if has else [] for has in named],
        place_colours(small[medoids], np.bincount(place[place >= 0], minlength=len(names))),
        spread,
    )


def fit(positions: Float32[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Turn a layout so that it is wide, and shorten empty stretches; a crop has unit area."""
    count = len(positions)
    if count < 2:
        return np.zeros((count, 2))
    centred = positions.astype(np.float64) - positions.mean(0, dtype=np.float64)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    turned = np.round(centred @ axes.T, 6)
    largest = turned[np.abs(turned).argmax(0), np.arange(turned.shape[1])]
    turned *= np.where(largest < 0, -1, 1)  # the sign of an axis is arbitrary: fix it
    aspect = ASPECT_OF_FEW if count <= FEW else ASPECT
    width = float(np.sqrt(count / _FILL * aspect))
    for axis, length in ((0, width), (1, width / aspect)):
        values = turned[:, axis]
        across = float(np.ptp(values))
        if across == 0:
            continue
        order = np.unique(values, return_inverse=True)[1]
        even = order / order.max()
        turned[:, axis] = length * (_EVEN * even + (1 - _EVEN) * (values - values.min()) / across)
    return turned


def _spread(
    points: Float64[np.ndarray, "n 2"],
    place: Int64[np.ndarray, " n"],
    named: Int64[np.ndarray, " p"],
    widths: Float64[np.ndarray, " p"],
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "p 2"]]:
    """Move components and names apart until their boxes do not overlap.

    In each round, boxes that overlap move apart along the axis of the smaller overlap. Names are
    drawn to the top of their places and give way more than components.
    """
    count = len(points)
    # distinct starting points, so that equal components move apart, too
    at = np.vstack([points + 1e-3 * _spiral(count), _tops(points, place, named)])
    half = np.full((len(at), 2), 0.5)
    half[count:] = np.stack([widths / 2 + 0.1, np.full(len(widths), _LINE)], 1)
    owner = np.append(place, named)
    is_name = np.arange(len(at)) >= count
    room = half[:, None] + half[None]
    room += 0.5 * _APART * (owner[:, None] != owner[None])[..., None]
    share = np.where(is_name[:, None] & ~is_name[None], 0.8, 0.5)
    share = np.where(~is_name[:, None] & is_name[None], 0.2, share)
    for round_number in range(_ROUNDS):
        if round_number < 0.7 * _ROUNDS:
            at[count:] += 0.15 * (_tops(at[:count], place, named) - at[count:])
        step, worst = _push(at, room, share)
        if worst < _ENOUGH and round_number >= 0.7 * _ROUNDS:
            break
        at += step
    names = np.zeros((len(named), 2))
    boxes = np.hstack([at[:count], half[:count] - _ENOUGH])
    for index in np.argsort([-(place == number).sum() for number in named], kind="stable"):
        own = place == named[index]
        names[index] = _free_spot(at[:count], own, boxes, at[count + index], half[count + index])
        boxes = np.vstack([boxes, [*names[index], *half[count + index]]])
    return at[:count], names


def _free_spot(
    points: Float64[np.ndarray, "n 2"],
    own: Bool[np.ndarray, " n"],
    boxes: Float64[np.ndarray, "b 4"],
    usual: Float64[np.ndarray, 2],
    half: Float64[np.ndarray, 2],
) -> Float64[np.ndarray, 2]:
    """Return where a name is free, nearest to its place and away from the others.

    Parameters
    ----------
    boxes
        What must stay free: middle, and half of width and height.
    usual
        The spot if nothing is free.
    """
    low, high = points[own].min(0) - half - 0.8, points[own].max(0) + half + 0.8
    axes = [np.arange(low[axis], high[axis] + _STEP, _STEP) for axis in range(2)]
    spots = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    apart = np.abs(spots[:, None] - boxes[None, :, :2]) - (half + boxes[None, :, 2:])
    spots = spots[(apart.max(2) >= 0).all(1)]
    if not len(spots):
        return usual
    away = np.linalg.norm(np.maximum(np.abs(spots[:, None] - points[None]) - half, 0), axis=2)
    others = away[:, ~own].min(1, initial=_ALONE)
    # above or below the middle of the place looks best
    aside = np.abs(spots[:, 0] - np.median(points[own, 0])) / (np.ptp(points[own, 0]) + 1)
    below = spots[:, 1] < points[own, 1].mean()
    return spots[(away[:, own].min(1) - 0.4 * others + 0.3 * aside + 0.1 * below).argmin()]


def _push(
    at: Float64[np.ndarray, "m 2"],
    room: Float64[np.ndarray, "m m 2"],
    share: Float64[np.ndarray, "m m"],
) -> tuple[Float64[np.ndarray, "m 2"], float]:
    """Return how far each box moves, and the largest overlap."""
    apart = at[:, None] - at[None]
    overlap = room - np.abs(apart)
    hit: Bool[np.ndarray, "m m"] = overlap.min(2) > 0
    np.fill_diagonal(hit, False)
    along = overlap[..., 0] < overlap[..., 1]
    step = np.zeros_like(at)
    for axis, chosen in ((0, hit & along), (1, hit & ~along)):
        push = np.where(chosen, share * overlap[..., axis] * np.sign(apart[..., axis]), 0)
        step[:, axis] = push.sum(1) / np.maximum(chosen.sum(1), 1)
    return step, float(np.where(hit, overlap.min(2), 0).max(initial=0))


def _tops(
    points: Float64[np.ndarray, "n 2"],
    place: Int64[np.ndarray, " n"],
    named: Int64[np.ndarray, " p"],
) -> Float64[np.ndarray, "p 2"]:
    """Return the points above the highest component of each place, in the middle of its top."""
    tops = np.zeros((len(named), 2))
    for index, number in enumerate(named):
        members = points[place == number]
        highest = members[:, 1].max()
        tops[index] = members[members[:, 1] >= highest - 1, 0].mean(), highest + 0.5 + _LINE
    return tops


def _spiral(count: int) -> Float64[np.ndarray, "n 2"]:
    """Return distinct directions (sunflower)."""
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    return np.stack([np.cos(angle), np.sin(angle)], 1)
