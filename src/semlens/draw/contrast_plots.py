"""Plots of contrasts of images: components that separate groups, and logits that shift."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import LINE, SOFT, new_figure, styled
from semlens.draw.palette import AGAINST, FOR
from semlens.draw.plot_elements import name_rows, show_in_cell


@styled
def contrast_plot(
    title: str,
    groups: tuple[str, str],
    components: pd.DataFrame,
    pictures: Sequence[Sequence[Image.Image]],
    logits: pd.DataFrame,
) -> Figure:
    """Draw AUROCs with intervals beside examples of the components, and the shifts of logits.

    Parameters
    ----------
    components
        ``component``, ``label``, ``auroc``, ``low``, ``high``, ``p_value``.
    pictures
        Examples of each component.
    logits
        ``class`` and ``shift``; may be empty.
    """
    panels = 3 if len(logits) else 2
    widths = [1.4, 1.0, 0.8][:panels]
    height = 1.3 + 0.5 * max(len(components), 1)
    figure, axes = new_figure(3.0 * panels, height, 1, panels, title, width_ratios=widths)
    _examples(axes[0], components, pictures)
    _aurocs(axes[1], groups, components)
    if panels == 3:
        _shifts(axes[2], groups, logits)
    return figure


def _examples(
    axes: Axes, components: pd.DataFrame, pictures: Sequence[Sequence[Image.Image]]
) -> None:
    names = [
        f"{record['component']}\n{record['label'] or '(no label)'}"
        for record in components.to_dict("records")
    ]
    for row, strip in enumerate(pictures):
        for place, picture in enumerate(strip):
            show_in_cell(axes, picture, place, row)
    name_rows(axes, names)
    axes.set(xlim=(0, max([1, *map(len, pictures)])), xticks=[], title="Examples")
    axes.set_aspect("equal", anchor="E")


def _aurocs(axes: Axes, groups: tuple[str, str], components: pd.DataFrame) -> None:
    axes.axvline(0.5, color=LINE, lw=1)
    for row, record in enumerate(components.to_dict("records")):
        colour = FOR if record["auroc"] >= 0.5 else AGAINST
        axes.plot([record["low"], record["high"]], [row, row], color=colour, lw=2)
        axes.plot(record["auroc"], row, "o", color=colour, ms=5)
        axes.text(1.03, row, f"p {record['p_value']:.3g}", va="center", fontsize=7.5, color=SOFT)
    name_rows(axes, [""] * len(components))
    axes.set(xlim=(0, 1), title="AUROC", xlabel=f"{groups[1]}  ←     → {groups[0]}")


def _shifts(axes: Axes, groups: tuple[str, str], logits: pd.DataFrame) -> None:
    shift = logits["shift"].to_numpy()
    axes.barh(range(len(shift)), shift, 0.66, color=[FOR if v >= 0 else AGAINST for v in shift])
    axes.axvline(0, color=LINE, lw=1)
    name_rows(axes, logits["class"].tolist())
    axes.set(title="Logits", xlabel=f"mean in {groups[0]}\nminus mean in {groups[1]}")
