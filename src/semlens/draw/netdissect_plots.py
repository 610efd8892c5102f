"""Plots of Network Dissection and Net2Vec: detectors on images, and IoU by number of components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from semlens.draw.figure import LINE, SERIES, SOFT, new_figure, styled
from semlens.draw.heatmap_mask import resize_heatmap
from semlens.draw.palette import AGAINST, FOR
from semlens.draw.plot_elements import name_rows

OPACITY = 0.65
"""Opacity of the black where a component is off."""


@dataclass(frozen=True, eq=False)
class DetectorImage:
    """An image as the model sees it, where a component is on, and where the concept is."""

    picture: Image.Image
    on: Bool[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]


@styled
def detectors_plot(
    title: str, frame: pd.DataFrame, strips: Sequence[Sequence[DetectorImage]], least_iou: float
) -> Figure:
    """Draw the images of each detector beside its IoU, and that with the masks of other images.

    Parameters
    ----------
    frame
        ``component``, ``concept``, ``iou``, ``expected`` and ``q_value``.
    """
    columns = max(map(len, strips))
    figure, axes = new_figure(
        0.75 * columns + 4.2, 0.8 + 0.75 * len(strips), 1, 2, title,
        width_ratios=[0.75 * columns, 2.2],
    )  # fmt: skip
    for row, strip in enumerate(strips):
        for column, image in enumerate(strip):
            _show(axes[0], image, column, row)
    names = [f"{record['component']}\n{record['concept']}" for record in frame.to_dict("records")]
    name_rows(axes[0], names)
    axes[0].set(xlim=(0, columns), xticks=[], title="Bright: on; outlined: the concept's mask")
    axes[0].set_aspect("equal", anchor="E")
    _ious(axes[1], frame, least_iou)
    return figure


def _show(axes: Axes, image: DetectorImage, column: int, row: int) -> None:
    """Show a picture in a cell, dark where the component is off, with the mask's outline."""
    width, height = (0.94 * side / max(image.picture.size) for side in image.picture.size)
    x, y = column + (1 - width) / 2, row - height / 2
    extent = (x, x + width, y + height, y)
    on = resize_heatmap(image.on, image.picture.size)[:, :, None] > 0.5
    pixels = np.asarray(image.picture, np.float32)
    shown = np.where(on, pixels, pixels * (1 - OPACITY)).round().astype(np.uint8)
    axes.imshow(shown, extent=extent)
    if image.mask.any():
        mask = np.pad(image.mask.astype(float), 1)  # so that outlines close at the border
        cell = np.array([width, height]) / image.mask.shape[::-1]
        along = [start + size * (np.arange(n) - 0.5) for start, size, n in
                 zip((x, y), cell, mask.shape[::-1], strict=True)]  # fmt: skip
        axes.contour(*along, mask, [0.5], colors=AGAINST, linewidths=0.9)


def _ious(axes: Axes, frame: pd.DataFrame, least_iou: float) -> None:
    rows = np.arange(len(frame))
    axes.barh(rows - 0.17, frame["iou"], 0.32, color=FOR, label="its own masks")
    axes.barh(rows + 0.17, frame["expected"], 0.32, color=LINE, label="those of other images")
    axes.axvline(least_iou, color=SOFT, lw=0.8, ls=":")
    name_rows(axes, [""] * len(frame))
    axes.set(title="IoU", xlim=(0, max(1.1 * frame["iou"].max(), 2 * least_iou)))
    axes.legend(loc="lower right", fontsize=7.5)


@styled
def combinations_plot(title: str, frame: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """Draw IoU of single components and of combinations, and by number of components.

    Parameters
    ----------
    frame
        ``concept``, ``component``, ``single`` and ``combined``.
    curves
        ``layer``, ``concept``, ``components`` and ``iou``.
    """
    height = max(2.8, 0.8 + 0.32 * len(frame))
    figure, axes = new_figure(8.6, height, 1, 2, title, width_ratios=[1, 1.1])
    for row, record in enumerate(frame.to_dict("records")):
        axes[0].plot([record["single"], record["combined"]], [row, row], color=LINE, lw=2, zorder=1)
        axes[0].scatter(record["single"], row, 26, color=AGAINST)
        axes[0].scatter(record["combined"], row, 26, color=FOR)
    records = frame.to_dict("records")
    name_rows(axes[0], [f"{record['concept']}\n{record['component']}" for record in records])
    axes[0].set(title="IoU on held-out images", xlim=(0, 1))
    axes[0].legend(
        handles=[
            Line2D([], [], marker="o", linestyle="", color=colour, label=label)
            for colour, label in ((AGAINST, "best component"), (FOR, "all components"))
        ],
        loc="lower right",
    )
    labels = curves["layer"] + " " + curves["concept"]
    for number, label in enumerate(labels.unique()):
        curve, colour = curves.loc[labels == label], SERIES[number % len(SERIES)]
        axes[1].plot(curve["components"], curve["iou"], "o-", ms=3.5, color=colour, label=label)
    axes[1].set(xscale="log", title="IoU of the components of largest weight", ylim=(0, None))
    ticks = sorted(set(curves["components"]))
    axes[1].set_xticks(ticks, [str(tick) for tick in ticks])
    axes[1].set_xticks([], minor=True)
    axes[1].set_xlabel("components")
    axes[1].grid(axis="y")
    axes[1].legend(fontsize=7.5)
    return figure
