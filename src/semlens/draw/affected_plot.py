"""Scores of samples for an artefact, and the samples around the threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import INK, SERIES, VERDICTS, new_figure, styled

SPURIOUS = VERDICTS["spurious"]


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
    colours = [SPURIOUS if left >= threshold - 1e-12 else SERIES[7] for left in edges[:-1]]
    axes.bar(edges[:-1], counts, width, align="edge", color=colours, edgecolor="white", lw=0.3)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(0, counts.max() * 2.5)
    axes.set_yticks([t for t in (0, 5, 10, 100, 1000, 10000) if t <= counts.max() * 2.5])
    axes.get_yaxis().set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.axvline(threshold, color=INK, lw=1, ls="--")
    axes.set_xlabel("score")
    axes.set_ylabel("samples")
    axes.set_title(f"{flagged} of {len(scores)} samples above the threshold", loc="left")


def _strip(axes: Axes, near: Sequence[Image.Image], above: int) -> None:
    axes.set_title(
        "Around the threshold: flagged on the left, not flagged on the right", loc="left"
    )
    for place, picture in enumerate(near):
        left = place + (0.6 if place >= above else 0)
        width, height = picture.size
        part = min(1.0, width / height), min(1.0, height / width)
        axes.imshow(
            np.asarray(picture),
            extent=(left + 0.04, left + 0.04 + 0.92 * part[0], 0.04, 0.04 + 0.92 * part[1]),
            aspect="equal",
        )
    axes.axvline(above + 0.3, color=INK, lw=1, ls="--")
    axes.set_xlim(0, len(near) + 0.6)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
