"""Plot of TCAV scores."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from semlens.draw.figure import INK, LINE, SERIES, SOFT, new_figure, styled
from semlens.draw.plot_elements import name_rows


@styled
def tcav_plot(frame: pd.DataFrame, alpha: float) -> Figure:
    """Draw one panel per class, with a bar per layer and concept.

    Parameters
    ----------
    frame
        ``class``, ``layer``, ``concept``, ``score``, ``low``, ``high``, ``random_low``,
        ``random_high``, ``q_value``, ``separates``.
    alpha
        Largest ``q_value`` of a bar that is drawn in full colour, if its CAV separates.
    """
    panels = list(frame.groupby("class", sort=False))
    most = max(len(rows) for _, rows in panels)
    figure, axes = new_figure(
        3.2 + 3.2 * len(panels), 1.5 + 0.34 * most, 1, len(panels), sharey=True, sharex=True
    )
    for panel, (name, rows) in zip(axes, panels, strict=True):
        _scores(panel, rows, alpha)
        panel.set_title(f"TCAV score for '{name}'")
    first = panels[0][1]
    name_rows(axes[0], (first["concept"] + " · " + first["layer"]).tolist())
    handles = [
        Patch(color=SERIES[0], label=f"q ≤ {alpha}"),
        Patch(color=LINE, label="not significant"),
        Line2D([], [], color=SOFT, lw=6, alpha=0.35, label="95 % of random concepts"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _scores(axes: Axes, rows: pd.DataFrame, alpha: float) -> None:
    for place, record in enumerate(rows.to_dict("records")):
        found = record["separates"] and record["q_value"] <= alpha
        axes.barh(place, record["score"], 0.5, color=SERIES[0] if found else LINE)
        axes.plot([record["random_low"], record["random_high"]], [place + 0.36] * 2, color=SOFT,
                  lw=4, alpha=0.35, solid_capstyle="butt")  # fmt: skip
        axes.plot([record["low"], record["high"]], [place, place], color=INK, lw=1.2)
        text = f"q {record['q_value']:.3g}" if record["separates"] else "does not separate"
        axes.text(1.03, place, text, va="center", fontsize=7.5, color=SOFT)
    axes.axvline(0.5, color=LINE, lw=1, ls=":")
    axes.set(xlim=(0, 1.4), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel="share of the class's images")
