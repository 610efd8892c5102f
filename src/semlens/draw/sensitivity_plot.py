"""Accuracy with and without artefacts, by model, as grouped bars (paper, Fig. F.13)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from semlens.draw.figure import INK, SERIES, SOFT, new_figure, styled

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
    panels = [ALL, *(classes if len(classes) <= FEW else [])]
    models, sets = list(dict.fromkeys(frame["model"])), list(dict.fromkeys(frame["images"]))
    changes = panels if len(sets) > 1 else []
    width = 1.4 + 0.24 * len(models) * len(sets)
    other = 1.2 + 0.24 * len(models) * max(1, len(sets) - 1)
    figure, axes = new_figure(
        max(4.5, width + other * len(changes)), 3.2, 1, 1 + len(changes),
        width_ratios=[width, *[other] * len(changes)],
    )  # fmt: skip
    whole = frame.query("`class` == @ALL")
    _bars(axes[0], whole, models, sets, ("accuracy", "low", "high"))
    axes[0].set_ylim(0, 1)
    axes[0].set_ylabel("accuracy")
    axes[0].set_title("Accuracy", loc="left")
    for place, name in enumerate(changes, start=1):
        part = frame.query("`class` == @name")
        _bars(axes[place], part, models, sets[1:], ("change", "change_low", "change_high"))
        axes[place].axhline(0, color=INK, lw=0.8)
        axes[place].set_title("Change" + ("" if name == ALL else f", {name}"), loc="left")
        axes[place].set_ylabel(f"change from '{sets[0]}'")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(models)), frameon=False
    )
    return figure


def _bars(
    axes: Axes, part: pd.DataFrame, models: list[str], sets: list[str], names: tuple[str, str, str]
) -> None:
    wide = 0.8 / len(models)
    for number, model in enumerate(models):
        rows = part.query("model == @model").set_index("images").reindex(sets)
        value, low, high = (rows[name].to_numpy(float) for name in names)
        at = np.arange(len(sets)) + (number - (len(models) - 1) / 2) * wide
        spread = np.stack([value - low, high - value])
        axes.bar(
            at, value, 0.92 * wide, color=SERIES[number % len(SERIES)], label=model,
            yerr=np.maximum(np.nan_to_num(spread), 0), error_kw={"ecolor": SOFT, "lw": 1},
        )  # fmt: skip
    axes.set_xticks(range(len(sets)), [_short(name) for name in sets])
    axes.tick_params(axis="x", length=0)


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def history_plot(history: pd.DataFrame) -> Figure:
    """Draw accuracy on held-out images over the epochs of a retraining."""
    figure, (axes,) = new_figure(4.5, 2.8)
    names = {"accuracy": "as they are", "accuracy_inserted": "with artefacts"}
    for (column, label), colour in zip(names.items(), SERIES, strict=False):
        axes.plot(history["epoch"], history[column], marker="o", ms=3, color=colour, label=label)
    axes.set_ylim(0, 1)
    axes.set_xlabel("epoch (0: before)")
    axes.set_ylabel("accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Held-out images", loc="left")
    axes.legend(frameon=False)
    return figure
