"""Names of places on a plot of a map: they do not overlap, and cover as little as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from semlens.draw.figure import INK, PAPER, SOFT

MAX_LABELS = 60
"""Maximum number of names on one map."""
_SIZES = ((12, 9.0), (24, 8.0), (40, 7.0), (MAX_LABELS, 6.0))
_FAR = 0.6
"""Distance of a name from its place, in heights of the text, from which a line connects them."""


@dataclass(frozen=True, eq=False)
class MapPlace:
    """A place of a map.

    Parameters
    ----------
    text
        Its name; empty for none.
    x, y
        Where the name is best written.
    size
        Number of components.
    colour
        Colour of its outline.
    rings
        Its outline.
    """

    text: str
    x: float
    y: float
    size: int
    colour: str = SOFT
    rings: Sequence[Float32[np.ndarray, "_ 2"]] = ()


def write_names(
    axes: Axes,
    points: Float32[np.ndarray, "n 2"],
    places: Sequence[MapPlace],
    half: float,
    font_size: float | None = None,
) -> tuple[list[Bbox], int]:
    """Write the names of places, those of large ones first, where they cover the fewest points.

    The axes must not change afterwards.

    Parameters
    ----------
    half
        Half the side of what is drawn at a point, in units of the map.
    font_size
        In points; by default smaller for more names.

    Returns
    -------
    tuple[list[Bbox], int]
        The boxes of the names in pixels, and the number of names left out for lack of room.
    """
    named = sorted((place for place in places if place.text), key=lambda place: -place.size)
    selected = named[:MAX_LABELS]
    size = font_size or next(size for limit, size in _SIZES if len(selected) <= limit)
    frame = axes.get_window_extent().frozen()
    pixels = axes.transData.transform(points) if len(points) else np.zeros((0, 2))
    reach = half * pixels_per_unit(axes)
    boxes: list[Bbox] = []
    for place in selected:
        text = axes.text(
            place.x, place.y, place.text, fontsize=size, color=INK, ha="center", va="center",
            weight="bold", zorder=6,
            path_effects=[patheffects.withStroke(linewidth=2.4, foreground=PAPER, alpha=0.92)],
        )  # fmt: skip
        best = _best_box(axes, text, place, frame, boxes, pixels, reach)
        if best is None:
            text.remove()
            continue
        boxes.append(best)
        middle: Any = ((best.x0 + best.x1) / 2, (best.y0 + best.y1) / 2)
        x, y = axes.transData.inverted().transform(middle)
        text.set_position((float(x), float(y)))
        _connect(axes, place, best)
    return boxes, len(named) - len(boxes)


def pixels_per_unit(axes: Axes) -> float:
    """Return the length of a unit of axes with equal scales."""
    origin, right = axes.transData.transform([(0.0, 0.0), (1.0, 0.0)])
    return float(right[0] - origin[0])


def _best_box(
    axes: Axes,
    text: Any,
    place: MapPlace,
    frame: Bbox,
    taken: Sequence[Bbox],
    pixels: Float64[np.ndarray, "n 2"],
    reach: float,
) -> Bbox | None:
    """Return the free box that covers the fewest points; the first of equals."""
    box = text.get_window_extent()
    shape = np.array([box.width + 4, box.height])
    best, least = None, np.inf
    for middle in _options(axes, place, shape):
        option = Bbox([middle - shape / 2, middle + shape / 2])
        inside = frame.contains(*option.min) and frame.contains(*option.max)
        if not inside or any(option.overlaps(other) for other in taken):
            continue
        near = (np.abs(pixels - middle) < shape / 2 + reach).all(1)
        covered = int(near.sum())
        if covered < least:
            best, least = option, covered
        if covered == 0:
            break
    return best


def _options(
    axes: Axes, place: MapPlace, shape: Float64[np.ndarray, 2]
) -> Iterator[Float64[np.ndarray, 2]]:
    """Yield middles of the name: where it is best, then around the outline, then further out."""
    best = axes.transData.transform((place.x, place.y))
    yield best
    corners = (
        axes.transData.transform(np.vstack(list(place.rings)))
        if place.rings
        else np.asarray([best - 4, best + 4])
    )
    low, high = corners.min(0), corners.max(0)
    middle = (low + high) / 2
    for gap in (0.0, 0.7, 1.6, 3.0):
        away = shape / 2 + gap * shape[1]
        for x in (middle[0], low[0], high[0]):
            yield np.array([x, high[1] + away[1]])
            yield np.array([x, low[1] - away[1]])
        for y in (middle[1], high[1], low[1]):
            yield np.array([low[0] - away[0], y])
            yield np.array([high[0] + away[0], y])


def _connect(axes: Axes, place: MapPlace, box: Bbox) -> None:
    """Connect a name with its place by a line if it is far."""
    outline = np.vstack(list(place.rings)) if place.rings else np.asarray([[place.x, place.y]])
    pixels = axes.transData.transform(outline)
    edges = np.clip(pixels, box.min, box.max)
    nearest = np.square(pixels - edges).sum(1).argmin()
    if np.hypot(*(pixels[nearest] - edges[nearest])) < _FAR * box.height:
        return
    ends = axes.transData.inverted().transform([edges[nearest], pixels[nearest]])
    axes.plot(ends[:, 0], ends[:, 1], color=SOFT, linewidth=0.6, zorder=5)
