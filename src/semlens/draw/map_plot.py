"""The plot of a map: outlines of places, crops or dots, and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.transforms import Bbox
from PIL import Image

from semlens.draw.figure import PAPER, new_figure, styled
from semlens.draw.map_colours import Colouring, Groups, PointColours, draw_legend, point_colours
from semlens.draw.map_labels import MapPlace, pixels_per_unit, write_names

Crop = Callable[[int], Image.Image]
"""Returns the crop of a point."""
CROP_SIDE = 0.94
"""Side of a crop on a map with room for all, in units."""
_FEW_CROPS = 90
_TRIED = 2000
_SHARE = 1 / 26
"""Side of a crop on a map without room for all, as a share of the width."""
_RESOLUTION = 48
_MARGIN = 0.9


@dataclass(frozen=True, eq=False)
class MapPicture:
    """What is drawn of a map.

    Parameters
    ----------
    points
        Positions. If there is room for all crops, a unit is the side of one.
    places
        By number.
    medoids
        The point in the middle of each place.
    spread
        Whether there is room for all crops.
    crop
        Returns the crop of a point; None if there are no pictures.
    """

    points: Float32[np.ndarray, "n 2"]
    places: Sequence[MapPlace]
    medoids: Int64[np.ndarray, " p"]
    spread: bool = False
    crop: Crop | None = None


@styled
def draw_map(
    picture: MapPicture, colouring: Colouring, title: str, notes: Sequence[str] = ()
) -> Figure:
    """Draw places, components as crops or dots, and as many names as fit, large places first."""
    if isinstance(colouring, Groups) and colouring.title == "place":
        colouring = replace(colouring, colours=tuple(place.colour for place in picture.places))
    figure, (axes,) = new_figure(8.2, 7.0)
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    _set_limits(axes, picture)
    draw_legend(axes, colouring)
    axes.set_xlabel(" ", loc="left", fontsize=8)
    FigureCanvasAgg(figure)  # text has no size without a canvas
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # from here on the axes must not move
    for place in picture.places:
        if place.rings:
            _draw_outline(axes, place)
    colours = point_colours(colouring)
    unit = pixels_per_unit(axes) * 72 / figure.dpi
    crops = picture.spread and picture.crop is not None
    half = CROP_SIDE / 2 if crops else 0.0
    font_size = float(np.clip(0.4 * unit, 5.0, 10.0)) if picture.spread else None
    boxes, hidden = write_names(axes, picture.points, picture.places, half, font_size)
    shown = np.arange(len(picture.points)) if crops else _chosen(axes, picture, boxes)
    if not crops:
        _draw_dots(axes, picture.points, colours, unit if picture.spread else 0.0)
    side = CROP_SIDE if picture.spread else _side(picture)
    _draw_crops(axes, picture, shown, colours, side, unit)
    left_out = f"No room for the names of {hidden} of {len(boxes) + hidden} places."
    axes.set_xlabel(" ".join([*notes, left_out] if hidden else notes), loc="left", fontsize=8)
    return figure


def _set_limits(axes: Axes, picture: MapPicture) -> None:
    names = [(place.x, place.y) for place in picture.places if place.text]
    corners = np.vstack([picture.points, *names]) if names else picture.points
    if not len(corners):
        return
    low, high = corners.min(0), corners.max(0)
    margin = np.full(2, _MARGIN) if picture.spread else 0.04 * (high - low) + 0.5
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]))
    axes.set(ylim=(low[1] - margin[1], high[1] + margin[1]), aspect="equal")


def _draw_outline(axes: Axes, place: MapPlace) -> None:
    # holes run the other way round, so that they stay empty
    path = Path.make_compound_path(*[Path(ring, closed=True) for ring in place.rings])
    axes.add_patch(PathPatch(path, facecolor=place.colour, alpha=0.13, linewidth=0, zorder=0))
    axes.add_patch(
        PathPatch(path, fill=False, edgecolor=place.colour, alpha=0.45, linewidth=0.8, zorder=1)
    )


def _draw_dots(
    axes: Axes, points: Float32[np.ndarray, "n 2"], colours: PointColours, unit: float
) -> None:
    area = (0.5 * unit) ** 2 if unit else float(np.clip(9000 / max(len(points), 1), 1.2, 34))
    order = np.argsort(colours.rank, kind="stable")  # strongest on top
    # rasterized, because 100 000 circles would make a vector file of 20 MB
    axes.scatter(
        points[order, 0], points[order, 1], c=colours.colour[order], s=area * colours.size[order],
        linewidths=0, rasterized=True, alpha=0.88, zorder=2,
    )  # fmt: skip


def _side(picture: MapPicture) -> float:
    return float(np.ptp(picture.points[:, 0], axis=0)) * _SHARE if len(picture.points) else 1.0


def _chosen(axes: Axes, picture: MapPicture, taken: Sequence[Bbox]) -> Int64[np.ndarray, " k"]:
    """Return points whose crops overlap neither each other nor a name, middles of places first."""
    if picture.crop is None:
        return np.zeros(0, np.int64)
    count = len(picture.points)
    others = np.random.default_rng(0).permutation(count)[:_TRIED]
    order = np.concatenate([picture.medoids, others]).astype(np.int64)
    side = _side(picture) * pixels_per_unit(axes)
    pixels = axes.transData.transform(picture.points)
    chosen: list[int] = []
    for point in order.tolist():
        middle = pixels[point]
        box = Bbox([middle - side / 2, middle + side / 2])
        near = np.abs(pixels[chosen] - middle).max(1, initial=0) if chosen else np.zeros(0)
        if (near < side).any() or any(box.overlaps(name) for name in taken):
            continue
        chosen.append(point)
        if len(chosen) == _FEW_CROPS:
            break
    return np.asarray(chosen, np.int64)


def _draw_crops(
    axes: Axes,
    picture: MapPicture,
    shown: Int64[np.ndarray, " k"],
    colours: PointColours,
    side: float,
    unit: float,
) -> None:
    """Draw crops, in one image, and frames in the colours of their points."""
    if picture.crop is None or not len(shown):
        return
    places = picture.points[shown].astype(float)
    low, high = places.min(0) - side / 2, places.max(0) + side / 2
    pixels = _RESOLUTION / side
    width, height = np.ceil((high - low) * pixels).astype(int)
    canvas = Image.new("RGBA", (int(width), int(height)))
    for point, (x, y) in zip(shown.tolist(), places, strict=True):
        crop = picture.crop(point).convert("RGB").resize((_RESOLUTION, _RESOLUTION))
        corner = (x - side / 2 - low[0]) * pixels, (high[1] - y - side / 2) * pixels
        canvas.paste(crop, (round(corner[0]), round(corner[1])))
    top = high[1] - height / pixels
    extent = (low[0], low[0] + width / pixels, top, high[1])
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(np.asarray(canvas), extent=extent, zorder=3, interpolation="antialiased")
    axes.set(xlim=limits[0], ylim=limits[1])
    squares = [Rectangle((x - side / 2, y - side / 2), side, side) for x, y in places]
    line = float(np.clip(0.09 * side * unit, 0.8, 2.2))
    for edge, thick in ((PAPER, 2 * line), (None, line)):
        axes.add_collection(
            PatchCollection(
                squares, facecolor="none", linewidths=thick, zorder=4,
                edgecolor=colours.colour[shown] if edge is None else edge, joinstyle="round",
            )
        )  # fmt: skip
