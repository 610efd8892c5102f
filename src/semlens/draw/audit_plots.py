"""Plots of audits, of sweeps over classes, and of model tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from adjustText import adjust_text
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gaussian_kde

from semlens.draw.figure import INK, LINE, PAPER, SERIES, SOFT, VERDICTS, new_figure, styled
from semlens.draw.plot_elements import dot_handles, in_percent, name_columns, name_rows, stacked_bar

LABELLED = 12
"""Number of components with a label: the most relevant ones."""
MOST_LAYERS = 5
"""With more layers, bars by number are only drawn for all layers together."""
LARGEST = 420.0
"""Area of the largest dot, in square points."""


@styled
def audit_plot(title: str, frame: pd.DataFrame, shares: pd.DataFrame) -> Figure:
    """Plot an audit.

    Parameters
    ----------
    frame
        Columns ``component``, ``max``, ``verdict``, and for each side (``valid``,
        ``spurious``) the alignment, ``SIDE_threshold`` and ``SIDE_concept``.
    shares
        Columns ``layer``, ``verdict``, ``by_number`` and ``by_relevance`` with ``_low`` and
        ``_high``.
    """
    bars = _select_bars(shares)
    height = max(5.4, 1.2 + 0.42 * len(bars))
    figure, (left, right) = new_figure(10.5, height, 1, 2, title, width_ratios=[2.1, 1])
    _scatter(left, frame)
    _bars(right, shares, bars)
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


def _scatter(axes: Axes, frame: pd.DataFrame) -> None:
    relevance = frame["max"].to_numpy(float)
    (x, x_label), (y, y_label) = _axis_values(frame, "spurious"), _axis_values(frame, "valid")
    for side, line in (("valid", axes.axhline), ("spurious", axes.axvline)):
        if has_side(frame, side):
            line(0, color=LINE, lw=1, zorder=0)
    axes.scatter(
        x, y, s=areas(relevance, LARGEST), c=[VERDICTS[v] for v in frame["verdict"]], alpha=0.75,
        edgecolors=PAPER, linewidths=0.6,
    )  # fmt: skip
    axes.margins(0.12)
    axes.set(xlabel=x_label, ylabel=y_label, title="Relevant components (area: largest relevance)")
    first = np.argsort(-relevance, kind="stable")[:LABELLED]
    records = frame.to_dict("records")
    texts = [axes.text(float(x[i]), float(y[i]), _label(records[i]), fontsize=7) for i in first]
    # limited by iterations instead of time, so that every machine draws the same plot
    adjust_text(
        texts, x, y, ax=axes, expand=(1.1, 1.4), max_move=30, iter_lim=100,
        arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5},
    )  # fmt: skip


def _axis_values(frame: pd.DataFrame, side: str) -> tuple[np.ndarray, str]:
    """Return the values and the label of an axis; relevance if the side has no concepts."""
    if has_side(frame, side):
        return above_chance(frame, side), f"alignment with {side} concepts, above chance"
    return frame["max"].to_numpy(float), "largest share of the layer's relevance"


def _label(record: Mapping[Any, Any]) -> str:
    """Return the best concept of the verdict's side, the component name, and its relevance."""
    side = "spurious" if record["verdict"] in ("spurious", "both") else "valid"
    concept = "?" if record["verdict"] == "unexpected" else record[f"{side}_concept"]
    return f"{concept} ({record['component']}, {100 * record['max']:.0f} %)"


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
    name_rows(axes, [f"{label}\nby {by}" for label, by in bars])
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
        Columns ``class``, ``alarm`` and a share for each verdict.
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
    for position in np.flatnonzero(table["alarm"]).tolist():
        axes.text(position, 1.02, "!", ha="center", color=VERDICTS["spurious"], fontweight="bold")
    name_columns(axes, list(table["class"]), room=0)
    axes.set(
        xlim=(-0.7, len(table) - 0.3), ylim=(0, 1.12), yticks=[0, 0.5, 1],
        ylabel="share of relevance", title="Verdicts (!: alarm)",
    )  # fmt: skip
    in_percent(axes.yaxis)


REAL, SPURIOUS, WITHOUT = VERDICTS["valid"], VERDICTS["spurious"], SERIES[7]
DOTS = 300
"""Largest number of images per strip that are drawn as dots."""


@dataclass(frozen=True, eq=False)
class Strip:
    """One spurious set: float32[n] logits, AUROC and its interval, share of top predictions."""

    name: str
    logit: Float32[np.ndarray, " n"]
    auroc: float
    interval: tuple[float, float]
    top: float


@styled
def model_test_figure(
    name: str,
    real: Float32[np.ndarray, " r"],
    strips: Sequence[Strip],
    without: Float32[np.ndarray, " m"] | None = None,
) -> Figure:
    """Draw one distribution per line: real images, each spurious set, and images without artefact.

    Parameters
    ----------
    without
        Logits of the images before artefacts were inserted.
    """
    lines = [
        (f"real: {name}", real, REAL),
        *((strip.name, strip.logit, SPURIOUS) for strip in strips),
        *([] if without is None else [("without artefact", without, WITHOUT)]),
    ]
    figure, (axis,) = new_figure(6.8, 0.52 * len(lines) + 0.95)
    for line, (_, logits, colour) in enumerate(lines):
        _draw(axis, -line, logits, colour)
    for line, strip in enumerate(strips, start=1):
        low, high = strip.interval
        below = f"{low:.3f} to {high:.3f}; top 1: {100 * strip.top:.0f} %"
        right: Any = {"x": 1.02, "transform": axis.get_yaxis_transform()}
        axis.text(
            y=0.05 - line, s=f"AUROC {strip.auroc:.3f}", fontweight="bold", va="bottom", **right
        )
        axis.text(y=-line, s=below, color=SOFT, fontsize=7.5, va="top", **right)
    axis.axvline(float(np.median(real)), color=REAL, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    axis.set_yticks([-line for line in range(len(lines))], [label for label, _, _ in lines])
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    all_logits = np.concatenate([logits for _, logits, _ in lines])
    low, high = float(all_logits.min()), float(all_logits.max())
    space = 0.05 * max(high - low, 1e-6)
    axis.set(
        xlim=(low - space, high + space), ylim=(0.4 - len(lines), 0.6),
        xlabel=f"logit of “{name}”",
        title=f"“{name}”: real images against spurious features only",
    )  # fmt: skip
    axis.spines["left"].set_visible(False)
    return figure


def _draw(axis: Axes, y: int, values: Float32[np.ndarray, " n"], colour: str) -> None:
    """Draw a density, with images as dots below it, and the median."""
    if len(values) > 1 and float(values.std()) > 0:
        margin = 0.15 * float(np.ptp(values))
        x = np.linspace(float(values.min()) - margin, float(values.max()) + margin, 200)
        density = gaussian_kde(values.astype(np.float64))(x)
        axis.fill_between(
            x, y, y + 0.5 * density / density.max(), color=colour, alpha=0.45, linewidth=0
        )
    shown = values[np.linspace(0, len(values) - 1, min(len(values), DOTS)).astype(int)]
    spread = np.random.default_rng(0).uniform(-0.26, -0.08, len(shown))
    axis.scatter(shown, y + spread, s=3, color=colour, alpha=0.5, linewidths=0)
    median = float(np.median(values))
    axis.plot([median, median], [y - 0.3, y + 0.36], color=colour, linewidth=1.6)
    axis.axhline(y - 0.42, color=LINE, linewidth=0.3, zorder=0)
