"""Plots of swaps: gains of the classes, where their regions lie, and pasted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import LINE, SERIES, SOFT, new_figure, styled
from semlens.draw.plot_elements import name_rows, show_in_cell, side_by_side

SHOWN = 16
"""Classes in a plot."""
MAPS = 6
"""Classes whose regions are drawn."""
COLOURS = "magma"
"""Of the share of images whose region covers a pixel."""


@styled
def swap_plot(
    frame: pd.DataFrame,
    size: str,
    title: str,
    pasted: Sequence[tuple[Image.Image, Image.Image]],
    coverage: Mapping[str, Float64[np.ndarray, "h w"]] = MappingProxyType({}),
) -> Figure:
    """Draw the gain of each class by size of the regions, and below what was pasted.

    Parameters
    ----------
    frame
        ``class``, the size, ``gain``, ``detected``; most significant first.
    size
        Column with the size.
    pasted
        Images before and after a region of the first class was pasted onto them.
    coverage
        By class, the share of images whose region contains each pixel.
    """
    names = list(dict.fromkeys(frame["class"]))[:SHOWN]
    heights = [1.2 + 0.3 * len(names), *([1.4] if coverage else []), 2.2]
    figure, axes = new_figure(7.0, sum(heights) + 0.2, len(heights), 1, title,
                              height_ratios=heights)  # fmt: skip
    _gains(axes[0], frame, size, names)
    if coverage:
        _coverage(axes[1], {name: coverage[name] for name in names[:MAPS]})
    images = axes[-1]
    for column, both in enumerate(pasted):
        for row, picture in enumerate(both):
            show_in_cell(images, picture, column, row)
    images.set(xlim=(0, max(len(pasted), 1)), xticks=[], title=f"From images of {names[0]}")
    name_rows(images, ["image", "pasted"])
    images.set_aspect("equal", anchor="W")
    return figure


def _gains(axes: Axes, frame: pd.DataFrame, size: str, names: Sequence[str]) -> None:
    sizes = sorted(set(frame[size]))
    shifts, thickness = side_by_side(len(sizes), 0.8)
    for value, shift, colour in zip(sizes, shifts, SERIES, strict=False):
        rows = frame[frame[size] == value].set_index("class").loc[list(names)]
        places = np.arange(len(names)) + shift
        axes.barh(
            places, rows["gain"], thickness, color=colour, label=f"{size} {100 * value:.0f} %"
        )
        for place, gain, detected in zip(places, rows["gain"], rows["detected"], strict=True):
            if detected:
                axes.text(gain, place, " detected", va="center", fontsize=7.5, color=SOFT)
    name_rows(axes, names)
    axes.axvline(0, color=LINE, lw=1)
    axes.set(xlabel="rise of the class's logit")
    axes.legend()


def _coverage(axes: Axes, maps: Mapping[str, np.ndarray]) -> None:
    """Draw where the regions of each class lie, on one scale of colours."""
    largest = max(float(one.max()) for one in maps.values()) or 1.0
    for column, one in enumerate(maps.values()):
        height, width = (0.94 * side / max(one.shape) for side in one.shape)
        x, y = column + (1 - width) / 2, -height / 2
        axes.imshow(one, COLOURS, vmin=0, vmax=largest, extent=(x, x + width, y + height, y))
    axes.set(xlim=(0, MAPS), ylim=(0.55, -0.55), yticks=[])
    axes.set_xticks([column + 0.5 for column in range(len(maps))], list(maps), fontsize=7.5)
    axes.tick_params(axis="x", length=0)
    axes.set_title(f"Where the regions lie (brightest: {100 * largest:.0f} % of the images)")
    axes.set_aspect("equal", anchor="W")
