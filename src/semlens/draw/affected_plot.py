"""Scores of samples for an artefact, and the samples around the threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import INK, PAPER, SERIES, VERDICTS, new_figure, styled
from semlens.draw.marks import show_square


@styled
def affected_plot(
    scores: Float64[np.ndarray, " n"],
    threshold: float,
    near: Sequence[Image.Image],
    above: int,
    flagged: int,
) -> Figure:
    """Draw a histogram with the threshold; below it, what lies on both sides of it.

    Parameters
    ----------
    near
        Pictures, highest score first.
    above
        How many of them are above the threshold.
    flagged
        How many samples are above the threshold.
    """
    rows = 2 if near else 1
    figure, axes = new_figure(6.5, 2.6 + 1.5 * (rows - 1), rows, 1, height_ratios=[2.2, 1][:rows])
    _histogram(axes[0], scores, threshold, flagged)
    if near:
        _strip(axes[1], near, above)
    return figure


def _histogram(axes: Axes, scores: np.ndarray, threshold: float, flagged: int) -> None:
    low, high = min(threshold, float(scores.min())), max(threshold, float(scores.max()))
    width = (high - low) / 50 or 1.0
    below = max(1, int(np.ceil((threshold - low) / width)))
    above = max(1, int(np.ceil((high - threshold) / width)) + 1)
    edges = threshold + width * np.arange(-below, above + 1)
    counts, _ = np.histogram(scores, edges)
    colours = [SERIES[7]] * below + [VERDICTS["spurious"]] * above
    axes.bar(edges[:-1], counts, width, align="edge", color=colours, edgecolor=PAPER, lw=0.3)
    axes.set_yscale("symlog", linthresh=10)
    most = counts.max() * 2.5
    axes.set(
        ylim=(0, most), yticks=[tick for tick in (0, 5, 10, 100, 1000, 10000) if tick <= most],
        xlabel="score", ylabel="samples",
        title=f"{flagged} of {len(scores)} samples above the threshold",
    )  # fmt: skip
    axes.get_yaxis().set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.axvline(threshold, color=INK, lw=1, ls="--")


def _strip(axes: Axes, near: Sequence[Image.Image], above: int) -> None:
    for place, picture in enumerate(near):
        show_square(axes, picture, place + (0.6 if place >= above else 0))
    axes.axvline(above + 0.3, color=INK, lw=1, ls="--")
    axes.set(
        xlim=(0, len(near) + 0.6), ylim=(0, 1),
        title="Around the threshold: flagged on the left, not flagged on the right",
    )  # fmt: skip
    axes.set_axis_off()
