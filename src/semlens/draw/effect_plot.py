"""What ablating components does, against their relevance."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from semlens.draw.figure import INK, LINE, SERIES, SOFT, new_figure, styled

NAMED = 8
"""So many of the most relevant components have their names beside them."""


@styled
def effect_plot(frame: pd.DataFrame, title: str, note: str) -> Figure:
    """Draw a dot per component or group, with standard errors, and the line of equal values.

    Parameters
    ----------
    frame
        ``unit``, ``relevance``, ``effect``, ``relevance_error``, ``effect_error``; the
        largest relevance first.
    """
    figure, (axes,) = new_figure(6.5, 5.0)
    axes.axline((0, 0), slope=1, color=LINE, lw=1, ls="--")
    axes.errorbar(
        frame["relevance"], frame["effect"], frame["effect_error"], frame["relevance_error"],
        fmt="o", ms=4, color=SERIES[0], ecolor=LINE, elinewidth=1,
    )  # fmt: skip
    for row in frame.head(NAMED).to_dict("records"):
        at = (row["relevance"], row["effect"])
        axes.annotate(row["unit"], at, (5, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xlabel("relevance, in units of the logit")
    axes.set_ylabel("effect: logit less that without it")
    axes.set_title(title)
    figure.supxlabel(note, fontsize=8, color=SOFT)
    return figure
