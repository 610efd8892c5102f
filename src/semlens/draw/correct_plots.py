"""Plots of corrections: accuracy with artefacts, affected samples, and cut-outs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from semlens.draw.figure import HEAT, INK, PAPER, SERIES, SOFT, new_figure, styled
from semlens.draw.heatmap_mask import overlay
from semlens.draw.palette import VERDICTS
from semlens.draw.plot_elements import name_columns, show_square, side_by_side


@styled
def affected_plot(
    scores: Float64[np.ndarray, " n"],
    threshold: float,
    pictures: Sequence[Image.Image],
    flagged_pictures: int,
    flagged: int,
) -> Figure:
    """Draw a histogram of scores with the threshold, and the samples around it.

    Parameters
    ----------
    pictures
        Pictures of samples around the threshold, highest score first.
    flagged_pictures
        Number of pictures above the threshold.
    flagged
        Number of samples above the threshold.
    """
    rows = 2 if pictures else 1
    figure, axes = new_figure(6.5, 2.6 + 1.5 * (rows - 1), rows, 1, height_ratios=[2.2, 1][:rows])
    _histogram(axes[0], scores, threshold, flagged)
    if pictures:
        _strip(axes[1], pictures, flagged_pictures)
    return figure


def _histogram(axes: Axes, scores: np.ndarray, threshold: float, flagged: int) -> None:
    low, high = min(threshold, float(scores.min())), max(threshold, float(scores.max()))
    width = (high - low) / 50 or 1.0
    bins_below = max(1, int(np.ceil((threshold - low) / width)))
    bins_above = max(1, int(np.ceil((high - threshold) / width)) + 1)
    edges = threshold + width * np.arange(-bins_below, bins_above + 1)
    counts, _ = np.histogram(scores, edges)
    colours = [SERIES[7]] * bins_below + [VERDICTS["spurious"]] * bins_above
    axes.bar(edges[:-1], counts, width, align="edge", color=colours, edgecolor=PAPER, lw=0.3)
    axes.set_yscale("symlog", linthresh=10)
    y_max = counts.max() * 2.5
    axes.set(
        ylim=(0, y_max), yticks=[tick for tick in (0, 5, 10, 100, 1000, 10000) if tick <= y_max],
        xlabel="score", ylabel="samples",
        title=f"{flagged} of {len(scores)} samples above the threshold",
    )  # fmt: skip
    axes.get_yaxis().set_major_formatter("{x:.0f}")
    axes.minorticks_off()
    axes.axvline(threshold, color=INK, lw=1, ls="--")


def _strip(axes: Axes, pictures: Sequence[Image.Image], flagged_pictures: int) -> None:
    for index, picture in enumerate(pictures):
        show_square(axes, picture, index + (0.6 if index >= flagged_pictures else 0))
    axes.axvline(flagged_pictures + 0.3, color=INK, lw=1, ls="--")
    axes.set(
        xlim=(0, len(pictures) + 0.6), ylim=(0, 1),
        title="Around the threshold: flagged on the left, not flagged on the right",
    )  # fmt: skip
    axes.set_axis_off()


ALL = "all"
MAX_PANELS = 4
"""Largest number of classes that have a panel each."""


@styled
def sensitivity_plot(frame: pd.DataFrame) -> Figure:
    """Draw the accuracy on every set, and its change from the first set, for each model.

    Parameters
    ----------
    frame
        Table of :class:`semlens.lenses.correct.artefact_sensitivity.Sensitivity`.
    """
    classes = [name for name in dict.fromkeys(frame["class"]) if name != ALL]
    models, sets = list(dict.fromkeys(frame["model"])), list(dict.fromkeys(frame["images"]))
    changes = [ALL, *(classes if len(classes) <= MAX_PANELS else [])] if len(sets) > 1 else []
    widths = [1.4 + 0.24 * len(models) * len(sets)]
    widths += [1.2 + 0.24 * len(models) * (len(sets) - 1)] * len(changes)
    figure, (first, *rest) = new_figure(
        max(4.5, sum(widths)), 3.2, 1, len(widths), width_ratios=widths
    )
    _bars(first, frame.loc[frame["class"] == ALL], models, sets, ("accuracy", "low", "high"))
    first.set(ylim=(0, 1), ylabel="accuracy", title="Accuracy")
    for axes, name in zip(rest, changes, strict=True):
        rows = frame.loc[frame["class"] == name]
        _bars(axes, rows, models, sets[1:], ("change", "change_low", "change_high"))
        axes.axhline(0, color=INK, lw=0.8)
        axes.set(
            title="Change" if name == ALL else f"Change, {name}",
            ylabel=f"change from '{sets[0]}'",
        )
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center",
                  ncols=min(4, len(models)))  # fmt: skip
    return figure


def _bars(
    axes: Axes, table: pd.DataFrame, models: list[str], sets: list[str], names: tuple[str, str, str]
) -> None:
    offsets, width = side_by_side(len(models), 0.8)
    for index, model in enumerate(models):
        rows = table.loc[table["model"] == model].set_index("images").reindex(sets)
        value, low, high = (rows[name].to_numpy(float) for name in names)
        spread = np.stack([value - low, high - value])
        axes.bar(
            np.arange(len(sets)) + offsets[index], value, 0.92 * width, label=model,
            color=SERIES[index % len(SERIES)], yerr=np.maximum(np.nan_to_num(spread), 0),
            error_kw={"ecolor": SOFT, "lw": 1},
        )  # fmt: skip
    texts = [name if len(name) <= 16 else name[:15] + "…" for name in sets]
    name_columns(axes, texts, room=3 * len(models) * len(sets))


@styled
def history_plot(history: pd.DataFrame) -> Figure:
    """Draw accuracy on held-out images over the epochs of a retraining."""
    figure, (axes,) = new_figure(4.5, 2.8)
    names = {"accuracy": "original", "accuracy_inserted": "with artefacts"}
    for (column, label), colour in zip(names.items(), SERIES, strict=False):
        axes.plot(history["epoch"], history[column], "o-", ms=3, color=colour, label=label)
    axes.set(
        ylim=(0, 1), xlabel="epoch (0: before training)", ylabel="accuracy", title="Held-out images"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


ROWS = ("image", "relevance", "mask", "cut-out", "clean image", "inserted")
MAX_NAME = 24
"""Maximum number of characters of an image's name."""


@dataclass(frozen=True)
class SegmentColumn:
    """One column of the plot: a cut-out, and a clean image without and with it.

    ``heat`` and ``mask`` are float32[h w] in the image's pixels.
    """

    name: str
    image: Image.Image
    heat: Float32[np.ndarray, "h w"]
    mask: Float32[np.ndarray, "h w"]
    clean: Image.Image
    inserted: Image.Image


@styled
def cutout_figure(columns: Sequence[SegmentColumn], title: str) -> Figure:
    """Draw one column per cut-out."""
    figure, axes = new_figure(
        1.25 * len(columns) + 0.7, 1.25 * len(ROWS) + 0.6, len(ROWS), len(columns), title
    )
    for index, column in enumerate(columns):
        pixels = np.asarray(column.image.convert("RGB"), np.float32)
        share = column.mask[:, :, None]
        pictures = (
            column.image,
            overlay(column.image, column.heat),
            column.mask,
            np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8),
            column.clean,
            column.inserted,
        )
        for row, picture in enumerate(pictures):
            panel = axes[row * len(columns) + index]
            # masks, which have no colour axis, are shares from 0 to 1
            limit = 1 if np.asarray(picture).ndim == 2 else None
            panel.imshow(picture, cmap=HEAT, vmin=0, vmax=limit)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(True)
        axes[index].set_title(_short(column.name), fontsize=6.5, fontweight="normal", loc="center")
    for row, name in enumerate(ROWS):
        axes[row * len(columns)].set_ylabel(name, fontsize=8.5)
    return figure


def _short(name: str) -> str:
    name = str(PurePosixPath(name).with_suffix(""))
    return name if len(name) <= MAX_NAME else "…" + name[1 - MAX_NAME :]
