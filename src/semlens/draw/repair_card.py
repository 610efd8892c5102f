"""A repair as one picture to post: marked images before and after, and the share they turn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import INK, SOFT, styled
from semlens.draw.palette import VERDICTS

SIZE = 1200, 630
"""Pixels: what pages that show links to pictures expect."""
IMAGES = 4
"""Marked images that are shown."""
DPI = 100


@dataclass(frozen=True)
class MarkedImage:
    """An image with the mark, and what the model takes it for."""

    image: Image.Image
    true: str
    before: str
    after: str


@styled
def repair_card(
    name: str, finding: str, cost: str, shown: Sequence[MarkedImage], taken: tuple[float, float]
) -> Image.Image:
    """Draw a repair on 1200 x 630 pixels.

    Parameters
    ----------
    name
        The class that the mark makes the model predict.
    finding, cost
        What the mark does and what the removal costs, a sentence each.
    shown
        Images of other classes; the first four are drawn.
    taken
        Share of the images of other classes that are predicted as the class, before and after.
    """
    width, height = SIZE
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.text(0.04, 0.93, textwrap.fill(finding, 64), va="top", size=22, weight="bold", color=INK)
    side = 0.215
    for number, one in enumerate(shown[:IMAGES]):
        left = 0.04 + number * (side + 0.02)
        axes = figure.add_axes((left, 0.33, side, side * width / height))
        axes.imshow(one.image)
        axes.set_axis_off()
        before = VERDICTS["spurious" if one.before == name else "unexpected"]
        after = VERDICTS["valid"] if one.after == one.true else SOFT
        figure.text(left, 0.30, f"before: {one.before}", size=13, color=before, va="top")
        figure.text(
            left, 0.26, f"after: {one.after}", size=13, color=after, va="top", weight="bold"
        )
    heading = f"Other images with the mark that are taken for \u201c{name}\u201d"
    figure.text(0.04, 0.135, textwrap.fill(heading, 30), va="center", size=13, linespacing=1.3)
    axes = figure.add_axes((0.36, 0.075, 0.55, 0.12))
    colours = [VERDICTS["spurious"], VERDICTS["valid"]]
    axes.barh([1, 0], taken, color=colours, height=0.72)
    axes.set_xlim(0, 1)
    axes.set_axis_off()
    for y, share, text in zip([1, 0], taken, ("before", "after"), strict=True):
        axes.text(-0.02, y, text, ha="right", va="center", size=13)
        axes.text(share + 0.012, y, f"{100 * share:.0f} %", va="center", size=17, weight="bold")
    figure.text(0.04, 0.025, cost, size=11, color=SOFT)
    figure.text(0.96, 0.025, "semlens", size=11, color=SOFT, ha="right")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
