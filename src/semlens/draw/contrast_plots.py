"""Plots of contrasts of images: components that separate groups, logits that shift, borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import LINE, SERIES, SOFT, new_figure, styled
from semlens.draw.plot_elements import name_rows, side_by_side

SHOWN = 16
"""Classes in a plot of border swaps."""


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
    figure, axes = new_figure(4.2 * panels, height, 1, panels, title, width_ratios=widths)
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
            _show(axes, picture, place, row)
    name_rows(axes, names)
    axes.set(xlim=(0, max([1, *map(len, pictures)])), xticks=[], title="Examples")
    axes.set_aspect("equal", anchor="E")


def _show(axes: Axes, picture: Image.Image, column: int, row: int) -> None:
    """Show a picture in a cell of a grid whose rows go down."""
    width, height = (0.94 * side / max(picture.size) for side in picture.size)
    x, y = column + (1 - width) / 2, row - height / 2
    axes.imshow(np.asarray(picture), extent=(x, x + width, y + height, y))


def _aurocs(axes: Axes, groups: tuple[str, str], components: pd.DataFrame) -> None:
    axes.axvline(0.5, color=LINE, lw=1)
    for row, record in enumerate(components.to_dict("records")):
        colour = SERIES[0] if record["auroc"] >= 0.5 else SERIES[1]
        axes.plot([record["low"], record["high"]], [row, row], color=colour, lw=2)
        axes.plot(record["auroc"], row, "o", color=colour, ms=5)
        axes.text(1.03, row, f"p {record['p_value']:.3g}", va="center", fontsize=7.5, color=SOFT)
    name_rows(axes, [""] * len(components))
    axes.set(xlim=(0, 1), title="AUROC", xlabel=f"{groups[1]}  ←     → {groups[0]}")


def _shifts(axes: Axes, groups: tuple[str, str], logits: pd.DataFrame) -> None:
    shift = logits["shift"].to_numpy()
    axes.barh(range(len(shift)), shift, 0.66, color=[SERIES[0 if v >= 0 else 1] for v in shift])
    axes.axvline(0, color=LINE, lw=1)
    name_rows(axes, logits["class"].tolist())
    axes.set(title="Logits", xlabel=f"mean in {groups[0]}\nminus mean in {groups[1]}")


@styled
def border_swap_plot(
    frame: pd.DataFrame, title: str, pasted: Sequence[tuple[Image.Image, Image.Image]]
) -> Figure:
    """Draw the gain of each class by width of the border, and pasted images below.

    Parameters
    ----------
    frame
        ``class``, ``width``, ``gain``, ``detected``; most significant first.
    pasted
        Images before and after the border of the first class was pasted onto them.
    """
    names = list(dict.fromkeys(frame["class"]))[:SHOWN]
    widths = sorted(set(frame["width"]))
    height = 1.2 + 0.3 * len(names)
    figure, (bars, images) = new_figure(7.0, height + 2.4, 2, 1, title, height_ratios=[height, 2.2])
    shifts, thickness = side_by_side(len(widths), 0.8)
    for width, shift, colour in zip(widths, shifts, SERIES, strict=False):
        rows = frame[frame["width"] == width].set_index("class").loc[names]
        places = np.arange(len(names)) + shift
        bars.barh(places, rows["gain"], thickness, color=colour, label=f"border {width:.0%}")
        for place, gain, detected in zip(places, rows["gain"], rows["detected"], strict=True):
            if detected:
                bars.text(gain, place, " detected", va="center", fontsize=7.5, color=SOFT)
    name_rows(bars, names)
    bars.axvline(0, color=LINE, lw=1)
    bars.set(xlabel="rise of the class's logit")
    bars.legend()
    for column, both in enumerate(pasted):
        for row, picture in enumerate(both):
            _show(images, picture, column, row)
    images.set(xlim=(0, max(len(pasted), 1)), xticks=[], title=f"Borders of {names[0]}")
    name_rows(images, ["image", "pasted"])
    images.set_aspect("equal", anchor="W")
    return figure
