"""Plots of audits, and of audits of all classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.figure import INK, LINE, PAPER, SOFT, new_figure, styled
from semlens.draw.palette import VERDICTS
from semlens.draw.plot_elements import (
    dot_handles,
    in_percent,
    ink_on,
    name_columns,
    name_rows,
    show_in_cell,
    stacked_bar,
)

NUMBERED = 9
"""Components with a number, a row of crops and a name."""
FIRST = (("spurious", "both"), 5), (("valid",), 2)
"""Of these, at most so many with some verdicts come first."""
CROPS, TEXT = 4, 5
"""Crops in a row, and crops that would fit beside them, where its text is."""
MOST_LAYERS = 5
"""With more layers, bars by number are only drawn for all layers together."""
LARGEST = 420.0
"""Area of the largest dot, in square points."""
INSIDE = 90.0
"""Area of a dot from which a number fits into it, in square points."""


@styled
def audit_plot(
    title: str,
    frame: pd.DataFrame,
    shares: pd.DataFrame,
    crops: Callable[[str], Sequence[Image.Image]] = lambda _: (),
) -> Figure:
    """Plot an audit: dots by alignment, crops of the numbered ones, and the shares below.

    Parameters
    ----------
    frame
        Columns ``component``, ``label``, ``max``, ``verdict``, and for each side (``valid``,
        ``spurious``) the alignment, ``SIDE_threshold`` and ``SIDE_concept``.
    shares
        Columns ``layer``, ``verdict``, ``by_number`` and ``by_relevance`` with ``_low`` and
        ``_high``.
    crops
        Returns the strongest examples of a component, by name.
    """
    bars = _select_bars(shares)
    bars_height = 0.7 + 0.27 * len(bars)
    figure = Figure(figsize=(8.6, 4.9 + bars_height), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    grid = figure.add_gridspec(2, 2, width_ratios=[1.35, 1], height_ratios=[4.9, bars_height])
    numbered = _numbered(frame)
    _scatter(figure.add_subplot(grid[0, 0]), frame, numbered)
    _rows(figure.add_subplot(grid[0, 1]), frame.iloc[numbered].to_dict("records"), crops)
    _bars(figure.add_subplot(grid[1, :]), shares, bars)
    counts = frame["verdict"].value_counts()
    names = {f"{name} ({counts.get(name, 0)})": colour for name, colour in VERDICTS.items()}
    figure.legend(handles=dot_handles(names), loc="outside lower left", ncols=4)
    return figure


def above_chance(frame: pd.DataFrame, side: str) -> np.ndarray:
    """Return alignments minus thresholds; zeros if the side has no concepts."""
    return np.nan_to_num((frame[side] - frame[f"{side}_threshold"]).to_numpy(float))


def has_side(frame: pd.DataFrame, side: str) -> bool:
    """Whether a side has concepts."""
    return bool(frame[side].notna().any())


def areas(relevance: np.ndarray, largest: float) -> np.ndarray:
    """Return areas of dots, proportional to relevance."""
    maximum = relevance.max(initial=0.0)
    return largest * np.clip(relevance, 0, None) / maximum if maximum > 0 else relevance * 0


def _numbered(frame: pd.DataFrame) -> list[int]:
    """Return the rows that get a number: the most relevant spurious and valid ones, and others."""
    order = np.argsort(-frame["max"].to_numpy(float), kind="stable").tolist()
    verdicts, first = frame["verdict"].tolist(), list[int]()
    for kinds, count in FIRST:
        first += [row for row in order if verdicts[row] in kinds][:count]
    return [*first, *(row for row in order if row not in first)][:NUMBERED]


def _scatter(axes: Axes, frame: pd.DataFrame, numbered: Sequence[int]) -> None:
    relevance = frame["max"].to_numpy(float)
    (x, x_label), (y, y_label) = _axis_values(frame, "valid"), _axis_values(frame, "spurious")
    for side, line in (("valid", axes.axvline), ("spurious", axes.axhline)):
        if has_side(frame, side):
            line(0, color=LINE, lw=1, zorder=0)
    area, colours = areas(relevance, LARGEST), [VERDICTS[v] for v in frame["verdict"]]
    dots: dict[str, Any] = {"edgecolors": PAPER, "linewidths": 0.6}
    axes.scatter(x, y, s=area, c=colours, alpha=0.6, **dots)
    for number, row in reversed(list(enumerate(numbered, start=1))):  # the first ones on top
        axes.scatter(x[row], y[row], s=area[row], c=colours[row], zorder=3, **dots)
        inside = area[row] >= INSIDE
        axes.annotate(
            str(number), (float(x[row]), float(y[row])), (0, 0) if inside else (6, 6),
            textcoords="offset points", ha="center", va="center", fontsize=8, fontweight="bold",
            color=ink_on(colours[row]) if inside else INK, zorder=4,
        )  # fmt: skip
    axes.margins(0.08)
    axes.set(xlabel=x_label, ylabel=y_label, title="Relevant components (area: largest relevance)")


def _rows(
    axes: Axes, records: Sequence[Mapping[Any, Any]], crops: Callable[[str], Sequence[Image.Image]]
) -> None:
    """Draw a row per numbered component: its number, its name, and its crops."""
    for row, record in enumerate(records):
        colour = VERDICTS[record["verdict"]]
        axes.scatter(0.3, row, s=150, color=colour, linewidths=0)
        axes.text(0.3, row, str(row + 1), ha="center", va="center", fontsize=8, fontweight="bold",
                  color=ink_on(colour))  # fmt: skip
        name, relation = _label(record)
        axes.text(0.75, row - 0.17, name, va="center", fontsize=9, fontweight="bold")
        axes.text(0.75, row + 0.2, relation, va="center", fontsize=8, color=SOFT)
        for column, picture in enumerate(crops(record["component"])[:CROPS]):
            show_in_cell(axes, picture, TEXT + column, row)
    axes.set(xlim=(0, TEXT + CROPS), ylim=(NUMBERED - 0.5, -0.5), title="The numbered components")
    axes.set_aspect("equal", anchor="NW")
    axes.set_axis_off()


def _axis_values(frame: pd.DataFrame, side: str) -> tuple[np.ndarray, str]:
    """Return the values and the label of an axis; relevance if the side has no concepts."""
    if has_side(frame, side):
        return above_chance(frame, side), f"alignment with {side} concepts, above chance"
    return frame["max"].to_numpy(float), "largest share of the layer's relevance"


def _label(record: Mapping[Any, Any]) -> tuple[str, str]:
    """Return the name of a component, and its id with the best concept of the verdict's side."""
    side = "spurious" if record["verdict"] in ("spurious", "both") else "valid"
    if record.get("marked"):
        said = " marked as spurious"
    else:
        said = (
            f" matches '{record[f'{side}_concept']}'" if record["verdict"] != "unexpected" else ""
        )
    relation = f"{record['component']}{said}"
    return _shortened(record["label"], 20), _shortened(relation, 27)


def _shortened(text: str, length: int) -> str:
    """Shorten a text, also one that is a single long word."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def _select_bars(shares: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the bars to draw: layers, by relevance or by number."""
    labels = list(dict.fromkeys(shares["layer"]))
    if len(labels) == 2:  # with one layer, "all" is the same
        labels = labels[:1]
    return [
        (label, by) for label in labels for by in ("relevance", "number")
        if by == "relevance" or label == labels[-1] or len(labels) <= MOST_LAYERS
    ]  # fmt: skip


def _bars(axes: Axes, shares: pd.DataFrame, bars: list[tuple[str, str]]) -> None:
    """Draw each layer's shares by relevance, and by number below, as stacked bars."""
    indexed = shares.set_index(["layer", "verdict"])
    for position, (label, by) in enumerate(bars):
        values = {name: float(indexed.at[(label, name), f"by_{by}"]) for name in VERDICTS}
        segments = [
            (values[name], VERDICTS[name], f"{100 * values[name]:.0f} %") for name in VERDICTS
        ]
        stacked_bar(axes, position, segments)
    name_rows(axes, [f"{label}, by {by}" for label, by in bars])
    axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], title="Shares")
    in_percent(axes.xaxis)
    axes.spines["left"].set_visible(False)


MOST = 40
"""Classes that are drawn; of more, those with the largest spurious share."""


@styled
def sweep_plot(table: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw one column per class: its components above, its shares below.

    Parameters
    ----------
    table
        Columns ``class``, ``standing`` and a share for each verdict.
    frames
        Components of each class, as for :func:`audit_plot`.
    """
    spurious = (table["spurious"] + table["both"]).to_numpy(float)
    shown = table.iloc[np.argsort(-spurious, kind="stable")[:MOST]]
    note = f"; {len(table) - MOST} more classes not shown" if len(table) > MOST else ""
    figure, (top, bottom) = new_figure(
        min(18.0, 3.0 + 0.62 * len(shown)), 6.2, 2, 1, f"What {len(table)} classes rely on{note}",
        height_ratios=[1.7, 1], sharex=True,
    )  # fmt: skip
    _dots(top, [frames[str(name)] for name in shown["class"]])
    _shares(bottom, shown)
    return figure


def _dots(axes: Axes, frames: list[pd.DataFrame]) -> None:
    axes.axhline(0, color=LINE, lw=1, zorder=0)
    # valid alignment, as in the paper, unless there are no valid concepts
    side = "valid" if any(has_side(frame, "valid") for frame in frames) else "spurious"
    for position, frame in enumerate(frames):
        # deterministic jitter (steps of the golden angle), so that equal values do not overlap
        jitter = 0.28 * np.sin(np.arange(len(frame)) * 2.399963)
        axes.scatter(
            position + jitter, above_chance(frame, side), alpha=0.7,
            s=areas(frame["max"].to_numpy(float), 110.0),
            c=[VERDICTS[v] for v in frame["verdict"]], edgecolors=PAPER, linewidths=0.4,
        )  # fmt: skip
    axes.set(
        ylabel=f"{side} alignment\nabove chance", title="Relevant components (area: relevance)"
    )
    axes.legend(
        handles=dot_handles(VERDICTS), loc="lower right", bbox_to_anchor=(1, 1.0), ncols=4,
        handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip


def _shares(axes: Axes, table: pd.DataFrame) -> None:
    ends = table[list(VERDICTS)].cumsum(axis=1)
    for verdict, colour in VERDICTS.items():
        axes.bar(
            range(len(table)), -table[verdict].to_numpy(float), 0.75, ends[verdict], color=colour
        )
    for position in np.flatnonzero(table["standing"] == "alarm").tolist():
        axes.text(position, 1.02, "!", ha="center", color=VERDICTS["spurious"], fontweight="bold")
    name_columns(axes, list(table["class"]), room=0)
    axes.set(
        xlim=(-0.7, len(table) - 0.3), ylim=(0, 1.12), yticks=[0, 0.5, 1],
        ylabel="share of relevance", title="Verdicts (!: alarm)",
    )  # fmt: skip
    in_percent(axes.yaxis)
