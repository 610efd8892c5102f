"""Cut-outs as a picture: the image, its heatmap, the mask, and the artefact in a clean image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import HEAT, new_figure, styled
from semlens.draw.mask import overlay

ROWS = ("image", "relevance", "mask", "cut-out", "clean image", "inserted")
LONGEST = 24
"""Letters of an image's name."""


@dataclass(frozen=True)
class Column:
    """One cut-out; ``heat`` and ``mask`` are float32[height width] over the image."""

    name: str
    image: Image.Image
    heat: Float32[np.ndarray, "h w"]
    mask: Float32[np.ndarray, "h w"]
    clean: Image.Image
    inserted: Image.Image


@styled
def cutout_figure(columns: Sequence[Column], title: str) -> Figure:
    """Draw a column for each cut-out."""
    width, height = 1.25 * len(columns) + 0.7, 1.25 * len(ROWS) + 0.6
    figure, axes = new_figure(width, height, len(ROWS), len(columns), title)
    for place, column in enumerate(columns):
        pixels = np.asarray(column.image.convert("RGB"), np.float32)
        share = column.mask[:, :, None]
        pictures = (
            column.image,
            overlay(column.image, column.heat),
            column.mask,
            np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8),
            column.clean,
            column.inserted,
        )
        for row, picture in enumerate(pictures):
            _show(axes[row * len(columns) + place], picture)
        axes[place].set_title(_short(column.name), fontsize=6.5, fontweight="normal", loc="center")
    for row, name in enumerate(ROWS):
        axes[row * len(columns)].set_ylabel(name, fontsize=8.5)
    return figure


def _show(axes: Axes, picture: Image.Image | np.ndarray) -> None:
    axes.imshow(picture, cmap=HEAT, vmin=0, vmax=1 if np.asarray(picture).ndim == 2 else None)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)


def _short(name: str) -> str:
    name = str(PurePosixPath(name).with_suffix(""))
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]
