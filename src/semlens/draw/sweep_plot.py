"""Audits of many classes side by side (Fig. 3b)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from semlens.draw.audit_plot import above_chance, areas, has_side
from semlens.draw.figure import INK, LINE, PAPER, SOFT, VERDICTS, new_figure, styled

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
    order = np.argsort(-spurious, kind="stable")[:MOST]
    width = min(18.0, 3.0 + 0.62 * len(order))
    figure, (top, bottom) = new_figure(width, 6.2, 2, 1, height_ratios=[1.7, 1], sharex=True)
    hidden = len(table) - len(order)
    note = f"; {hidden} more classes not drawn" if hidden else ""
    figure.suptitle(
        f"What {len(table)} classes rest on{note}", x=0.01, ha="left", fontweight="bold", color=INK
    )
    names = [str(table["class"].to_list()[i]) for i in order]
    _dots(top, [frames[name] for name in names])
    _shares(bottom, table.iloc[order], names)
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
    axes.set_ylabel(f"{side} alignment\nabove chance")
    handles = [
        Line2D([], [], marker="o", ls="", color=colour, label=name)
        for name, colour in VERDICTS.items()
    ]
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=4, labelcolor=SOFT,
        handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip
    axes.set_title("Relevant components (area: relevance)")


def _shares(axes: Axes, table: pd.DataFrame, names: list[str]) -> None:
    start = np.zeros(len(table))
    for verdict, colour in VERDICTS.items():
        values = table[verdict].to_numpy(float)
        axes.bar(range(len(table)), values, bottom=start, color=colour, width=0.75)
        start = start + values
    for place, alarm in enumerate(table["alarm"]):
        if alarm:
            axes.text(place, 1.02, "!", ha="center", color=VERDICTS["spurious"], fontweight="bold")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.set_ylabel("share of relevance")
    axes.set_title("Verdicts (!: more spurious than by chance)")
