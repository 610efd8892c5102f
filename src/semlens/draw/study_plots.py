"""Plots of studies with people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from semlens.draw.component_plots import scores_plot
from semlens.draw.figure import SERIES, SOFT, new_figure, styled


@dataclass(frozen=True)
class ScatterPanel:
    """One measure against the mean ratings of the same questions."""

    values: Float64[np.ndarray, " n"]
    ratings: Float64[np.ndarray, " n"]
    measure: str
    rating: str
    pearson: float
    """NaN if there is no correlation; then there is no interval either."""
    low: float
    high: float


@styled
def study_plot(panels: Sequence[ScatterPanel], title: str) -> Figure:
    """Draw a panel per comparison, with a dot per question (paper, Figs. G.3, G.7 and G.9)."""
    figure, axes = new_figure(3.4 * len(panels), 3.3, 1, len(panels), title)
    for axis, panel, colour in zip(axes, panels, SERIES, strict=False):
        axis.scatter(panel.ratings, panel.values, s=22, color=colour, alpha=0.6, lw=0)
        axis.set(
            xlabel=f"{panel.rating}, mean of the raters", ylabel=f"{panel.measure} as computed"
        )
        correlation = "no correlation"
        if not np.isnan(panel.pearson):
            correlation = f"r = {panel.pearson:.2f} ({panel.low:.2f} to {panel.high:.2f})"
        axis.set_title(correlation, fontsize=9)
        if not len(panel.values):
            axis.text(0.5, 0.5, "no ratings", color=SOFT, ha="center", transform=axis.transAxes)
    return figure


def values_plot(values: Mapping[str, Float64[np.ndarray, " n"]], measure: str) -> Figure:
    """Draw the values of a measure, one row per kind of question."""
    return scores_plot({measure: values})
