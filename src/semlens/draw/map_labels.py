"""Labels of clusters on a map that do not collide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from adjustText import adjust_text
from jaxtyping import Float32
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from semlens.draw.figure import INK, PAPER, SOFT
from semlens.draw.map_parts import MapLabel

MOST = 60
"""Labels on one map at most."""
_SIZES = ((12, 9.0), (24, 8.0), (40, 7.0), (MOST, 6.0))
_ROUNDS = 200
_SPARSE = 500


def write_labels(
    figure: Figure,
    axes: Axes,
    where: Float32[np.ndarray, "n 2"],
    labels: Sequence[MapLabel],
    notes: Sequence[str] = (),
) -> int:
    """Write the labels that there is room for, those of large clusters first.

    On maps with few points they stand beside the points, else over them.

    Returns
    -------
    int
        How many were left out; the line below the plot says so, after the notes.
    """
    wanted = sorted(labels, key=lambda label: -label.size)[:MOST]
    FigureCanvasAgg(figure)  # text has no size before it has a canvas
    axes.set_xlabel(" ", loc="left", fontsize=8)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what follows must not move the axes
    axes.autoscale(False)
    size = next(points for most, points in _SIZES if len(wanted) <= most)
    halo = [patheffects.withStroke(linewidth=2.2, foreground=PAPER, alpha=0.9)]
    texts = [
        axes.text(
            label.x, label.y, label.text, fontsize=size, color=INK, ha="center", va="center",
            path_effects=halo, zorder=4,
        )
        for label in wanted
    ]  # fmt: skip
    if texts:
        adjust_text(
            texts,
            *(where.T if len(where) <= _SPARSE else ()),
            ax=axes,
            avoid_self=False,
            expand=(1.06, 1.25),
            iter_lim=_ROUNDS,  # a limit in seconds would give another plot on another machine
        )
    hidden = len(labels) - _keep_apart(axes, texts, wanted)
    left_out = f"No room for the labels of {hidden} of {len(labels)} clusters."
    axes.set_xlabel(" ".join([*notes, left_out] if hidden else notes), loc="left", fontsize=8)
    return hidden


def _keep_apart(axes: Axes, texts: Sequence[Any], labels: Sequence[MapLabel]) -> int:
    """Remove texts that touch one of a larger cluster, or the edge; return how many stay."""
    frame = axes.get_window_extent()
    kept: list[Bbox] = []
    for text, label in zip(texts, labels, strict=True):
        box = text.get_window_extent()
        inside = frame.contains(*box.min) and frame.contains(*box.max)
        if not inside or any(box.overlaps(other) for other in kept):
            text.remove()
            continue
        kept.append(box)
        _lead(axes, box, label)
    return len(kept)


def _lead(axes: Axes, box: Bbox, label: MapLabel) -> None:
    """Draw a line from a text that was moved away to where it belongs."""
    home = axes.transData.transform((label.x, label.y))
    near = np.clip(home, box.min, box.max)
    if np.hypot(*(home - near)) < 0.6 * box.height:
        return
    ends = axes.transData.inverted().transform([near, home])
    axes.plot(ends[:, 0], ends[:, 1], color=SOFT, linewidth=0.5, zorder=3)
