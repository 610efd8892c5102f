"""Picture of the prototypes of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import INK, SOFT, new_figure, styled
from semlens.draw.plot_elements import show_in_cell

GAP = 0.4
"""Space between the images of a prototype and those of its components."""


@dataclass(frozen=True)
class PrototypeRow:
    """A prototype: a text, images, and its components with examples."""

    text: str
    images: Sequence[Image.Image]
    components: Sequence[str]
    examples: Sequence[Sequence[Image.Image]]


@styled
def prototype_plot(
    title: str, rows: Sequence[PrototypeRow], unusual: Sequence[Image.Image]
) -> Figure:
    """Draw a row of cells per prototype, and a last one with the least likely images.

    The prototypical image comes first in its row; then follow the nearest ones.
    """
    images = max(len(pictures) for pictures in (*(row.images for row in rows), unusual))
    crops = [max((len(row.examples[i]) for row in rows if i < len(row.examples)), default=0)
             for i in range(max(len(row.components) for row in rows))]  # fmt: skip
    width = images + sum(crops) + GAP * len(crops)
    height = 1.25 * (len(rows) + 1)
    figure, (axes,) = new_figure(0.8 * width + 1.2, 0.8 * height + 0.5, title=title)
    for place, row in enumerate(rows):
        _prototype(axes, row, 1.25 * place, images, crops)
    last = 1.25 * len(rows)
    _images(axes, unusual, 0.0, last)
    _side(axes, "least\nlikely", last)
    axes.set(xlim=(-1.2, width), ylim=(height - 0.5, -0.8), xticks=[], yticks=[])
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    return figure


def _prototype(axes: Axes, row: PrototypeRow, y: float, images: int, crops: Sequence[int]) -> None:
    _side(axes, row.text, y)
    _images(axes, row.images, 0.0, y)
    left = images + GAP
    for name, examples, count in zip(row.components, row.examples, crops, strict=False):
        _images(axes, examples, left, y)
        axes.text(left, y - 0.5, name, fontsize=7, color=INK, va="bottom")
        left += count + GAP


def _images(axes: Axes, pictures: Sequence[Image.Image], left: float, y: float) -> None:
    for place, picture in enumerate(pictures):
        show_in_cell(axes, picture, left + place, y)


def _side(axes: Axes, text: str, y: float) -> None:
    axes.text(-0.1, y, text, ha="right", va="center", fontsize=8, color=SOFT)
