"""Components by their valid and spurious alignment, and the shares of the verdicts (Fig. 3a)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from semlens.draw.figure import INK, LINE, PAPER, SOFT, VERDICTS, new_figure, styled

NAMED = 12
"""Components that get a label: the most relevant ones."""
LARGEST = 420.0
"""Area of the most relevant component's dot, in square points."""


@styled
def audit_plot(title: str, frame: pd.DataFrame, shares: pd.DataFrame) -> Figure:
    """Draw an audit.

    Parameters
    ----------
    frame
        Columns ``component``, ``max``, ``verdict``, and for both sides (``valid``,
        ``spurious``) the alignment, ``SIDE_threshold`` and ``SIDE_concept``.
    shares
        Columns ``layer``, ``verdict``, ``by_number`` and ``by_relevance`` with ``_low`` and
        ``_high``.
    """
    figure, (left, right) = new_figure(10.5, 5.4, 1, 2, width_ratios=[2.1, 1])
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK)
    _scatter(left, frame)
    _bars(right, shares)
    return figure


def above_chance(frame: pd.DataFrame, side: str) -> np.ndarray:
    """Return alignments less their thresholds; zeros where there is no such side."""
    return np.nan_to_num((frame[side] - frame[f"{side}_threshold"]).to_numpy(float))


def areas(relevance: np.ndarray, largest: float) -> np.ndarray:
    """Return areas of dots, in proportion to relevance."""
    most = relevance.max(initial=0.0)
    return largest * np.clip(relevance, 0, None) / most if most > 0 else relevance * 0


def _scatter(axes: Axes, frame: pd.DataFrame) -> None:
    x, y = above_chance(frame, "spurious"), above_chance(frame, "valid")
    relevance = frame["max"].to_numpy(float)
    verdict = frame["verdict"].to_list()
    axes.axhline(0, color=LINE, lw=1, zorder=0)
    axes.axvline(0, color=LINE, lw=1, zorder=0)
    axes.scatter(
        x, y, s=areas(relevance, LARGEST), c=[VERDICTS[v] for v in verdict], alpha=0.75,
        edgecolors=PAPER, linewidths=0.6,
    )  # fmt: skip
    axes.margins(0.12)
    axes.set_xlabel("alignment with spurious concepts, above chance")
    axes.set_ylabel("alignment with valid concepts, above chance")
    axes.set_title("Relevant components (area: largest relevance)")
    handles = [
        Line2D([], [], marker="o", ls="", color=colour, label=f"{name} ({verdict.count(name)})")
        for name, colour in VERDICTS.items()
    ]
    axes.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, labelcolor=SOFT,
        handletextpad=0.1, columnspacing=0.9, fontsize=8,
    )  # fmt: skip
    first = np.argsort(-relevance, kind="stable")[:NAMED]
    parts = frame.to_dict("records")
    texts = [
        axes.text(float(x[i]), float(y[i]), _name(parts[i]), fontsize=7, color=INK) for i in first
    ]
    adjust_text(
        texts, x, y, ax=axes, expand=(1.1, 1.4), max_move=30,
        arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5},
    )  # fmt: skip


def _name(part: Mapping[Any, Any]) -> str:
    """Return the best concept of the verdict's side, the component, and its relevance."""
    side = "spurious" if part["verdict"] in ("spurious", "both") else "valid"
    concept = "?" if part["verdict"] == "unexpected" else part[f"{side}_concept"]
    return f"{concept} ({part['component']}, {100 * part['max']:.0f} %)"


def _bars(axes: Axes, shares: pd.DataFrame) -> None:
    """Draw each layer's shares by relevance, and by number below, as stacked bars."""
    labels = list(dict.fromkeys(shares["layer"]))
    if len(labels) == 2:  # one layer: "all" says the same
        labels = labels[:1]
    ticks: list[str] = []
    for place, (label, by) in enumerate(
        (label, by) for label in labels for by in ("relevance", "number")
    ):
        ticks.append(f"{label}\nby {by}")
        start = 0.0
        for name, colour in VERDICTS.items():
            mine = (shares["layer"] == label) & (shares["verdict"] == name)
            value = float(shares.loc[mine, f"by_{by}"].to_numpy()[0])
            axes.barh(place, value, left=start, color=colour, height=0.72)
            if value > 0.06:
                axes.text(
                    start + value / 2, place, f"{100 * value:.0f} %", ha="center", va="center",
                    fontsize=7.5, color=PAPER,
                )  # fmt: skip
            start += value
    axes.set_yticks(range(len(ticks)), ticks, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("Shares")
