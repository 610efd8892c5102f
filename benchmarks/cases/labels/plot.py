"""A picture of the hits of all methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semlens.draw.figure import INK, LINE, SERIES, new_figure, save_picture, styled
from semlens.draw.plot_elements import name_rows


@styled
def draw_methods(result: Mapping[str, Any], path: Path) -> None:
    """Draw a bar with its interval per method, those with annotations apart, and the ceiling.

    Parameters
    ----------
    result
        What ``python -m benchmarks labels --json`` prints.
    """
    own, given = result["methods"], result["references"]
    rows = [*own, *given]
    places = np.arange(len(rows), dtype=float)
    figure, (axes,) = new_figure(7.5, 0.9 + 0.27 * len(rows))
    for offset, key, low, high, colour, about in (
        (-0.2, "primary", "low", "high", SERIES[0], "right"),
        (0.2, "lenient", "lenient_low", "lenient_high", "#9fc0f5", "right or nearly right"),
    ):
        values = np.array([one[key] for one in rows])
        span = np.array([[one[key] - one[low], one[high] - one[key]] for one in rows]).T
        axes.barh(
            places + offset, values, 0.38, color=colour, label=about, xerr=np.maximum(span, 0),
            error_kw={"ecolor": INK, "elinewidth": 0.9},
        )  # fmt: skip
    best = [one["primary"] for one in result["ceiling"] if one["method"] == result["default"]]
    axes.axvline(
        float(np.mean(best)), color=SERIES[1], lw=1.2, ls="--",
        label="right by the default on the right word's own images",
    )  # fmt: skip
    axes.axhline(len(own) - 0.5, color=LINE, lw=0.8)
    names = [one["name"] + " (default)" * (one["name"] == result["default"]) for one in rows]
    name_rows(axes, names)
    axes.set(
        xlim=(0, None),
        xlabel="share of units, mean over regimes; below the line: given annotations",
    )
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=2)
    save_picture(figure, path)
