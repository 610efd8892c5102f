"""Accuracy with and without artefacts, by model, as grouped bars (paper, Fig. F.13)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from semlens.draw.figure import INK, SERIES, SOFT, new_figure, styled
from semlens.draw.marks import name_columns, side_by_side

ALL = "all"
FEW = 4
"""Up to so many classes, each has a panel of its own."""


@styled
def sensitivity_plot(frame: pd.DataFrame) -> Figure:
    """Draw the accuracy on every set, and its change from the first, model by model.

    Parameters
    ----------
    frame
        As of :class:`semlens.analysis.correct.sensitivity.Sensitivity`.
    """
    classes = [name for name in dict.fromkeys(frame["class"]) if name != ALL]
    models, sets = list(dict.fromkeys(frame["model"])), list(dict.fromkeys(frame["images"]))
    changes = [ALL, *(classes if len(classes) <= FEW else [])] if len(sets) > 1 else []
    widths = [1.4 + 0.24 * len(models) * len(sets)]
    widths += [1.2 + 0.24 * len(models) * (len(sets) - 1)] * len(changes)
    figure, (first, *rest) = new_figure(
        max(4.5, sum(widths)), 3.2, 1, len(widths), width_ratios=widths
    )
    _bars(first, frame.loc[frame["class"] == ALL], models, sets, ("accuracy", "low", "high"))
    first.set(ylim=(0, 1), ylabel="accuracy", title="Accuracy")
    for axes, name in zip(rest, changes, strict=True):
        part = frame.loc[frame["class"] == name]
        _bars(axes, part, models, sets[1:], ("change", "change_low", "change_high"))
        axes.axhline(0, color=INK, lw=0.8)
        title = "Change" if name == ALL else f"Change, {name}"
        axes.set(title=title, ylabel=f"change from '{sets[0]}'")
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(models)))
    return figure


def _bars(
    axes: Axes, part: pd.DataFrame, models: list[str], sets: list[str], names: tuple[str, str, str]
) -> None:
    beside, wide = side_by_side(len(models), 0.8)
    for number, model in enumerate(models):
        rows = part.loc[part["model"] == model].set_index("images").reindex(sets)
        value, low, high = (rows[name].to_numpy(float) for name in names)
        spread = np.stack([value - low, high - value])
        axes.bar(
            np.arange(len(sets)) + beside[number], value, 0.92 * wide, label=model,
            color=SERIES[number % len(SERIES)], yerr=np.maximum(np.nan_to_num(spread), 0),
            error_kw={"ecolor": SOFT, "lw": 1},
        )  # fmt: skip
    texts = [name if len(name) <= 16 else name[:15] + "…" for name in sets]
    name_columns(axes, texts, room=3 * len(models) * len(sets))


@styled
def history_plot(history: pd.DataFrame) -> Figure:
    """Draw accuracy on held-out images over the epochs of a retraining."""
    figure, (axes,) = new_figure(4.5, 2.8)
    names = {"accuracy": "as they are", "accuracy_inserted": "with artefacts"}
    for (column, label), colour in zip(names.items(), SERIES, strict=False):
        axes.plot(history["epoch"], history[column], "o-", ms=3, color=colour, label=label)
    axes.set(ylim=(0, 1), xlabel="epoch (0: before)", ylabel="accuracy", title="Held-out images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure
