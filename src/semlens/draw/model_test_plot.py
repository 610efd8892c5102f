"""Plot of a model test: a class's logits on real images and on spurious ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from semlens.draw.figure import INK, LINE, SERIES, SOFT, new_figure, styled
from semlens.draw.palette import VERDICTS

REAL, SPURIOUS, WITHOUT = VERDICTS["valid"], VERDICTS["spurious"], SERIES[7]
DOTS = 300
"""Largest number of images per strip that are drawn as dots."""


@dataclass(frozen=True, eq=False)
class Strip:
    """One spurious set: float32[n] logits, AUROC and its interval, share of top predictions."""

    name: str
    logit: Float32[np.ndarray, " n"]
    auroc: float
    interval: tuple[float, float]
    top: float


@styled
def model_test_figure(
    name: str,
    real: Float32[np.ndarray, " r"],
    strips: Sequence[Strip],
    without: Float32[np.ndarray, " m"] | None = None,
) -> Figure:
    """Draw one distribution per line: real images, each spurious set, and images without artefact.

    Parameters
    ----------
    without
        Logits of the images before artefacts were inserted.
    """
    lines = [
        (f"real: {name}", real, REAL),
        *((strip.name, strip.logit, SPURIOUS) for strip in strips),
        *([] if without is None else [("without artefact", without, WITHOUT)]),
    ]
    figure, (axis,) = new_figure(6.8, 0.52 * len(lines) + 0.95)
    for line, (_, logits, colour) in enumerate(lines):
        _draw(axis, -line, logits, colour)
    for line, strip in enumerate(strips, start=1):
        low, high = strip.interval
        below = f"{low:.3f} to {high:.3f}; top 1: {100 * strip.top:.0f} %"
        right: Any = {"x": 1.02, "transform": axis.get_yaxis_transform()}
        axis.text(
            y=0.05 - line, s=f"AUROC {strip.auroc:.3f}", fontweight="bold", va="bottom", **right
        )
        axis.text(y=-line, s=below, color=SOFT, fontsize=7.5, va="top", **right)
    axis.axvline(float(np.median(real)), color=REAL, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    axis.set_yticks([-line for line in range(len(lines))], [label for label, _, _ in lines])
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    all_logits = np.concatenate([logits for _, logits, _ in lines])
    low, high = float(all_logits.min()), float(all_logits.max())
    space = 0.05 * max(high - low, 1e-6)
    axis.set(
        xlim=(low - space, high + space), ylim=(0.4 - len(lines), 0.6),
        xlabel=f"logit of “{name}”",
        title=f"“{name}”: real images against spurious features only",
    )  # fmt: skip
    axis.spines["left"].set_visible(False)
    return figure


def _draw(axis: Axes, y: int, values: Float32[np.ndarray, " n"], colour: str) -> None:
    """Draw a density, with images as dots below it, and the median."""
    if len(values) > 1 and float(values.std()) > 0:
        margin = 0.15 * float(np.ptp(values))
        x = np.linspace(float(values.min()) - margin, float(values.max()) + margin, 200)
        density = gaussian_kde(values.astype(np.float64))(x)
        axis.fill_between(
            x, y, y + 0.5 * density / density.max(), color=colour, alpha=0.45, linewidth=0
        )
    shown = values[np.linspace(0, len(values) - 1, min(len(values), DOTS)).astype(int)]
    spread = np.random.default_rng(0).uniform(-0.26, -0.08, len(shown))
    axis.scatter(shown, y + spread, s=3, color=colour, alpha=0.5, linewidths=0)
    median = float(np.median(values))
    axis.plot([median, median], [y - 0.3, y + 0.36], color=colour, linewidth=1.6)
    axis.axhline(y - 0.42, color=LINE, linewidth=0.3, zorder=0)
