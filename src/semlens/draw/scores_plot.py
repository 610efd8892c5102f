"""How measures of interpretability are distributed in layers (Fig. 5b)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.figure import INK, SERIES, SOFT, new_figure, styled
from semlens.draw.marks import name_rows


@styled
def scores_plot(measures: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw one panel per measure and one box per layer.

    Parameters
    ----------
    measures
        By measure and layer, the values of its components.
    """
    layers = list(next(iter(measures.values())))
    figure, panels = new_figure(10, 1.4 + 0.42 * len(layers), 1, len(measures), sharey=True)
    for axes, (measure, values), colour in zip(panels, measures.items(), SERIES, strict=False):
        _boxes(axes, [values[layer] for layer in layers], colour)
        axes.set_title(measure)
    name_rows(panels[0], layers)
    return figure


def _boxes(axes: Axes, values: list[np.ndarray], colour: str) -> None:
    """Draw a row per layer: all components as dots, quartiles as a box."""
    draw = np.random.default_rng(0)
    for place, part in enumerate(values):
        aside = draw.uniform(-0.26, 0.26, len(part))
        axes.scatter(part, place + aside, s=5, color=colour, alpha=0.3, lw=0, rasterized=True)
    filled = [place for place, part in enumerate(values) if len(part)]
    axes.boxplot(
        [values[place] for place in filled], positions=filled, orientation="horizontal",
        widths=0.5, showfliers=False, manage_ticks=False, medianprops={"color": INK, "lw": 1.6},
        boxprops={"color": SOFT}, whiskerprops={"color": SOFT}, capprops={"color": SOFT},
    )  # fmt: skip
