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

from semlens.draw.figure import HEAT, LINE, SOFT, new_figure
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


def cutout_figure(columns: Sequence[Column], title: str) -> Figure:
    """Draw a column for each cut-out."""
    width = 1.25 * len(columns) + 0.7
    figure, axes = new_figure(width, 1.25 * len(ROWS) + 0.6, len(ROWS), len(columns))
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
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
        axes[row * len(columns)].set_ylabel(name, fontsize=8.5, color=SOFT)
    return figure


def _show(axes: Axes, picture: Image.Image | np.ndarray) -> None:
    axes.imshow(picture, cmap=HEAT, vmin=0, vmax=1 if np.asarray(picture).ndim == 2 else None)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(LINE)


def _short(name: str) -> str:
    name = str(PurePosixPath(name).with_suffix(""))
    return name if len(name) <= LONGEST else "…" + name[1 - LONGEST :]
