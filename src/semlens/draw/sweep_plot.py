"""Audits of many classes side by side (Fig. 3b)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.audit_plot import above_chance, areas, has_side
from semlens.draw.figure import LINE, PAPER, VERDICTS, new_figure, styled
from semlens.draw.marks import dot_handles, in_percent, name_columns

MOST = 40
"""Classes that are drawn; of more, those with the largest spurious share."""


@styled
def sweep_plot(table: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw one column per class: its components above, its shares below.

    Parameters
    ----------
    table
        Columns ``class``, ``alarm`` and a share for each verdict.
    frames
        By class, its components as :func:`audit_plot` takes them.
    """
    spurious = (table["spurious"] + table["both"]).to_numpy(float)
    shown = table.iloc[np.argsort(-spurious, kind="stable")[:MOST]]
    hidden = len(table) - len(shown)
    note = f"; {hidden} more classes not drawn" if hidden else ""
    figure, (top, bottom) = new_figure(
        min(18.0, 3.0 + 0.62 * len(shown)), 6.2, 2, 1, f"What {len(table)} classes rest on{note}",
        height_ratios=[1.7, 1], sharex=True,
    )  # fmt: skip
    _dots(top, [frames[str(name)] for name in shown["class"]])
    _shares(bottom, shown)
    return figure


def _dots(axes: Axes, frames: list[pd.DataFrame]) -> None:
    axes.axhline(0, color=LINE, lw=1, zorder=0)
    # as the paper has it; without valid concepts the other side
    side = "valid" if any(has_side(frame, "valid") for frame in frames) else "spurious"
    for place, frame in enumerate(frames):
        relevance = frame["max"].to_numpy(float)
        # spread sideways by a fixed rule, so that equal heights do not hide each other
        aside = 0.28 * np.sin(np.arange(len(frame)) * 2.399963)
        axes.scatter(
            place + aside, above_chance(frame, side), s=areas(relevance, 110.0), alpha=0.7,
            c=[VERDICTS[v] for v in frame["verdict"]], edgecolors=PAPER, linewidths=0.4,
        )  # fmt: skip
    axes.set(
        ylabel=f"{side} alignment\nabove chance", title="Relevant components (area: relevance)"
    )
    axes.legend(
        handles=dot_handles(VERDICTS), loc="lower right", bbox_to_anchor=(1, 1.0), ncols=4,
        handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip


def _shares(axes: Axes, table: pd.DataFrame) -> None:
    ends = table[list(VERDICTS)].cumsum(axis=1)
    for verdict, colour in VERDICTS.items():
        share = table[verdict].to_numpy(float)
        axes.bar(range(len(table)), -share, 0.75, ends[verdict], color=colour)
    for place in np.flatnonzero(table["alarm"]).tolist():
        axes.text(place, 1.02, "!", ha="center", color=VERDICTS["spurious"], fontweight="bold")
    name_columns(axes, list(table["class"]), room=0)
    axes.set(
        xlim=(-0.7, len(table) - 0.3), ylim=(0, 1.12), yticks=[0, 0.5, 1],
        ylabel="share of relevance", title="Verdicts (!: more spurious than by chance)",
    )  # fmt: skip
    in_percent(axes.yaxis)
