"""Plots of labels: how often methods are right, and how stable labels are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from semlens.draw.figure import INK, SERIES, new_figure, styled
from semlens.draw.plot_elements import name_rows


@styled
def share_plot(frame: pd.DataFrame, title: str) -> Figure:
    """Draw the shares of right labels of each method, exact and of the five best, with intervals.

    Parameters
    ----------
    frame
        Columns ``method``, ``exact``, ``exact_low``, ``exact_high``, and the same of ``top5``.
    """
    figure, (axes,) = new_figure(6.5, 1.4 + 0.4 * len(frame))
    place = np.arange(len(frame))
    for number, (name, text) in enumerate((("exact", "best word"), ("top5", "five best words"))):
        share, low, high = (frame[name + end].to_numpy(float) for end in ("", "_low", "_high"))
        at = place + 0.38 * (number - 0.5)
        axes.barh(at, share, 0.36, color=SERIES[number], label=text)
        error = np.stack([share - low, high - share]).clip(min=0)
        axes.errorbar(share, at, xerr=error, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    name_rows(axes, frame["method"].tolist())
    axes.set(xlim=(0, 1), xlabel="share of right labels, 95 % intervals over folders", title=title)
    axes.legend()
    return figure


@styled
def stability_plot(stability: np.ndarray, draws: int, title: str) -> Figure:
    """Draw how many labels are the same in which share of the bootstrap samples.

    Parameters
    ----------
    stability
        float[n], a share of ``draws`` samples for each label.
    """
    figure, (axes,) = new_figure(6.0, 2.8)
    shares = np.arange(draws + 1) / max(draws, 1)
    count = [(np.abs(stability - share) < 0.5 / max(draws, 1)).sum() for share in shares]
    axes.bar(shares, count, 0.8 / max(draws, 1), color=SERIES[0])
    axes.set(
        xlim=(-0.05, 1.05), xlabel="share of bootstrap samples with the same label",
        ylabel="labels", title=title,
    )  # fmt: skip
    return figure
