"""Named values as bars, one below the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from semlens.draw.figure import INK, SERIES, new_figure, styled


@styled
def bars_plot(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    unit: str,
    peaks: Sequence[float] | None = None,
) -> Figure:
    """Draw a bar per name, the first one at the top.

    Parameters
    ----------
    unit
        What the values are.
    peaks
        Largest values, drawn as marks.
    """
    figure, (axes,) = new_figure(6.5, 1.2 + 0.24 * len(names))
    places = np.arange(len(names))
    axes.barh(places, values, 0.7, color=[SERIES[0 if v >= 0 else 1] for v in values])
    if peaks is not None:
        axes.scatter(peaks, places, s=22, marker="|", color=INK, label="largest")
        axes.legend()
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.set_title(title)
    return figure
