"""Plots of audits: components by alignment, all classes beside one another, the model test."""

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
    (x, across), (y, up) = _along(frame, "spurious"), _along(frame, "valid")
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
        By class, its components as :func:`audit_plot` takes them.
    """
    spurious = (table["spurious"] + table["both"]).to_numpy(float)
    shown = table.iloc[np.argsort(-spurious, kind="stable")[:MOST]]
    note = f"; {len(table) - MOST} more classes not drawn" if len(table) > MOST else ""
    figure, (top, bottom) = new_figure(
        min(18.0, 3.0 + 0.62 * len(shown)), 6.2, 2, 1, f"What {len(table)} classes rest on{note}",
        height_ratios=[1.7, 1], sharex=True,
    )  # fmt: skip
    _dots(top, [frames[str(name)] for name in shown["class"]])
    _shares(bottom, shown)
    return figure


def _dots(axes: Axes, frames: list[pd.DataFrame]) -> None:
    axes.axhline(0, color=LINE, lw=1, zorder=0)
    # as the paper has it; without valid concepts the other side
    side = "valid" if any(has_side(frame, "valid") for frame in frames) else "spurious"
    for place, frame in enumerate(frames):
        # spread sideways by a fixed rule, so that equal heights do not hide each other
        aside = 0.28 * np.sin(np.arange(len(frame)) * 2.399963)
        axes.scatter(
            place + aside, above_chance(frame, side), alpha=0.7,
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
    for place in np.flatnonzero(table["alarm"]).tolist():
        axes.text(place, 1.02, "!", ha="center", color=VERDICTS["spurious"], fontweight="bold")
    name_columns(axes, list(table["class"]), room=0)
    axes.set(
        xlim=(-0.7, len(table) - 0.3), ylim=(0, 1.12), yticks=[0, 0.5, 1],
        ylabel="share of relevance", title="Verdicts (!: more spurious than by chance)",
    )  # fmt: skip
    in_percent(axes.yaxis)


REAL, SPURIOUS, WITHOUT = VERDICTS["valid"], VERDICTS["spurious"], SERIES[7]
DOTS = 300
"""Images of a strip that are drawn as dots, at most."""


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
    """Draw a distribution per line: real images, each set with its AUROC beside, and other images.

    Parameters
    ----------
    without
        Logits of the images that artefacts were inserted into, before that.
    """
    lines = [
        (f"real: {name}", real, REAL),
        *((strip.name, strip.logit, SPURIOUS) for strip in strips),
        *([] if without is None else [("without artefact", without, WITHOUT)]),
    ]
    figure, (axis,) = new_figure(6.8, 0.52 * len(lines) + 0.95)
    for place, (_, logits, colour) in enumerate(lines):
        _draw(axis, -place, logits, colour)
    for place, strip in enumerate(strips, start=1):
        low, high = strip.interval
        below = f"{low:.3f} to {high:.3f}; top 1: {100 * strip.top:.0f} %"
        right: Any = {"x": 1.02, "transform": axis.get_yaxis_transform()}
        axis.text(
            y=0.05 - place, s=f"AUROC {strip.auroc:.3f}", fontweight="bold", va="bottom", **right
        )
        axis.text(y=-place, s=below, color=SOFT, fontsize=7.5, va="top", **right)
    axis.axvline(float(np.median(real)), color=REAL, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    axis.set_yticks([-place for place in range(len(lines))], [label for label, _, _ in lines])
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    every = np.concatenate([logits for _, logits, _ in lines])
    low, high = float(every.min()), float(every.max())
    space = 0.05 * max(high - low, 1e-6)
    axis.set(
        xlim=(low - space, high + space), ylim=(0.4 - len(lines), 0.6),
        xlabel=f"logit of “{name}”",
        title=f"“{name}”: real images against spurious features only",
    )  # fmt: skip
    axis.spines["left"].set_visible(False)
    return figure


def _draw(axis: Axes, place: int, values: Float32[np.ndarray, " n"], colour: str) -> None:
    """Draw a density, the images as dots below, and the median."""
    if len(values) > 1 and float(values.std()) > 0:
        reach = 0.15 * float(np.ptp(values))
        at = np.linspace(float(values.min()) - reach, float(values.max()) + reach, 200)
        height = gaussian_kde(values.astype(np.float64))(at)
        height = place + 0.5 * height / height.max()
        axis.fill_between(at, place, height, color=colour, alpha=0.45, linewidth=0)
    some = values[np.linspace(0, len(values) - 1, min(len(values), DOTS)).astype(int)]
    spread = np.random.default_rng(0).uniform(-0.26, -0.08, len(some))
    axis.scatter(some, place + spread, s=3, color=colour, alpha=0.5, linewidths=0)
    middle = float(np.median(values))
    axis.plot([middle, middle], [place - 0.3, place + 0.36], color=colour, linewidth=1.6)
    axis.axhline(place - 0.42, color=LINE, linewidth=0.3, zorder=0)
