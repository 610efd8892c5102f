"""Components by their valid and spurious alignment, and the shares of the verdicts (Fig. 3a)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from semlens.draw.figure import LINE, PAPER, SOFT, VERDICTS, new_figure, styled
from semlens.draw.marks import dot_handles, in_percent, name_rows, stacked_bar

NAMED = 12
"""Components that get a label: the most relevant ones."""
MOST_LAYERS = 5
"""With more of them, bars by number are drawn for all together only."""
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
    bars = _chosen(shares)
    height = max(5.4, 1.2 + 0.42 * len(bars))
    figure, (left, right) = new_figure(10.5, height, 1, 2, title, width_ratios=[2.1, 1])
    _scatter(left, frame)
    _bars(right, shares, bars)
    counts = frame["verdict"].value_counts()
    names = {f"{name} ({counts.get(name, 0)})": colour for name, colour in VERDICTS.items()}
    figure.legend(handles=dot_handles(names), loc="outside lower left", ncols=4)
    return figure


def above_chance(frame: pd.DataFrame, side: str) -> np.ndarray:
    """Return alignments less their thresholds; zeros where there is no such side."""
    return np.nan_to_num((frame[side] - frame[f"{side}_threshold"]).to_numpy(float))


def has_side(frame: pd.DataFrame, side: str) -> bool:
    """Say whether there are concepts of a side."""
    return bool(frame[side].notna().any())


def areas(relevance: np.ndarray, largest: float) -> np.ndarray:
    """Return areas of dots, in proportion to relevance."""
    most = relevance.max(initial=0.0)
    return largest * np.clip(relevance, 0, None) / most if most > 0 else relevance * 0


def _scatter(axes: Axes, frame: pd.DataFrame) -> None:
    relevance = frame["max"].to_numpy(float)
    x, across = _along(frame, "spurious")
    y, up = _along(frame, "valid")
    for side, line in (("valid", axes.axhline), ("spurious", axes.axvline)):
        if has_side(frame, side):
            line(0, color=LINE, lw=1, zorder=0)
    axes.scatter(
        x, y, s=areas(relevance, LARGEST), c=[VERDICTS[v] for v in frame["verdict"]], alpha=0.75,
        edgecolors=PAPER, linewidths=0.6,
    )  # fmt: skip
    axes.margins(0.12)
    axes.set(xlabel=across, ylabel=up, title="Relevant components (area: largest relevance)")
    first = np.argsort(-relevance, kind="stable")[:NAMED]
    parts = frame.to_dict("records")
    texts = [axes.text(float(x[i]), float(y[i]), _name(parts[i]), fontsize=7) for i in first]
    # steps, not seconds, end the search: the same picture on every machine
    adjust_text(
        texts, x, y, ax=axes, expand=(1.1, 1.4), max_move=30, iter_lim=100,
        arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5},
    )  # fmt: skip


def _along(frame: pd.DataFrame, side: str) -> tuple[np.ndarray, str]:
    """Return an axis and its name; relevance where there is no such side."""
    if has_side(frame, side):
        return above_chance(frame, side), f"alignment with {side} concepts, above chance"
    return frame["max"].to_numpy(float), "largest share of the layer's relevance"


def _name(part: Mapping[Any, Any]) -> str:
    """Return the best concept of the verdict's side, the component, and its relevance."""
    side = "spurious" if part["verdict"] in ("spurious", "both") else "valid"
    concept = "?" if part["verdict"] == "unexpected" else part[f"{side}_concept"]
    return f"{concept} ({part['component']}, {100 * part['max']:.0f} %)"


def _chosen(shares: pd.DataFrame) -> list[tuple[str, str]]:
    """Return which bars to draw: layers, and whether by relevance or by number."""
    labels = list(dict.fromkeys(shares["layer"]))
    if len(labels) == 2:  # one layer: "all" says the same
        labels = labels[:1]
    return [
        (label, by) for label in labels for by in ("relevance", "number")
        if by == "relevance" or label == labels[-1] or len(labels) <= MOST_LAYERS
    ]  # fmt: skip


def _bars(axes: Axes, shares: pd.DataFrame, bars: list[tuple[str, str]]) -> None:
    """Draw each layer's shares by relevance, and by number below, as stacked bars."""
    by_part = shares.set_index(["layer", "verdict"])
    for place, (label, by) in enumerate(bars):
        mine = {name: float(by_part.at[(label, name), f"by_{by}"]) for name in VERDICTS}
        parts = [(mine[name], VERDICTS[name], f"{100 * mine[name]:.0f} %") for name in VERDICTS]
        stacked_bar(axes, place, parts)
    name_rows(axes, [f"{label}\nby {by}" for label, by in bars])
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], title="Shares")
    in_percent(axes.xaxis)
    axes.spines["left"].set_visible(False)
