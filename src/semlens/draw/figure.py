"""Style of all plots, and reproducible picture files."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from semlens.draw.palette import AGAINST, FOR
from semlens.store.atomic_files import write_atomic

PAPER, INK, SOFT, LINE = "#ffffff", "#1b2430", "#5d6978", "#c3ccd8"
SERIES = ("#2f6fde", "#d9622b", "#00856b", "#b5539b", "#e0a100", "#4aa8d8", "#7a5c3e", "#5d6978")
"""Colours of series."""
HEAT = LinearSegmentedColormap.from_list("semlens", ["#f2f5f9", "#9fc0f5", "#2f6fde", "#12305f"])
"""Colours of values from low to high."""
SIGNED = LinearSegmentedColormap.from_list("semlens-signed", [AGAINST, "#f2f5f9", FOR])
"""Colours of values below and above zero: against and for."""

_STYLE: Any = MappingProxyType(
    {
        "font.family": "sans-serif",
        "font.size": 9.0,
        "text.color": INK,
        "text.parse_math": False,  # names may contain dollar signs
        "axes.axisbelow": True,
        "axes.edgecolor": LINE,
        "axes.labelcolor": SOFT,
        "axes.titlecolor": INK,
        "axes.titlesize": 10.0,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.titlesize": 11.0,
        "figure.titleweight": "bold",
        "grid.color": LINE,
        "grid.linewidth": 0.5,
        "grid.alpha": 0.6,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "legend.fontsize": 8.0,
        "legend.frameon": False,
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "svg.fonttype": "none",
        "svg.hashsalt": "semlens",
    }
)

_DRAWING = threading.RLock()


@contextmanager
def _style() -> Iterator[None]:
    """Apply the style; one thread at a time, since matplotlib's settings are global."""
    with _DRAWING, mpl.rc_context(dict(_STYLE)):
        yield


styled = _style()
"""Decorator that applies the style while a function draws."""


@styled
def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, title: str = "", **settings: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure (size in inches) and its axes, row by row, without pyplot's global state.

    Parameters
    ----------
    title
        Title above all axes.
    settings
        Keyword arguments of ``Figure.subplots`` (``sharex``, ``width_ratios``, ...).
    """
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **settings)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure, list(axes.ravel())


@styled
def write_picture(picture: Figure | Image.Image, target: Path | io.BytesIO, kind: str) -> None:
    """Write a chart (``png``, ``svg``, ``pdf``) or a picture (``png``, ``jpg``, ``webp``).

    Equal charts give equal bytes.
    """
    if isinstance(picture, Figure):
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        picture.savefig(target, format=kind, metadata=metadata.get(kind))
    else:
        picture.save(target, "jpeg" if kind == "jpg" else kind)


def _bytes(figure: Figure, kind: str) -> bytes:
    target = io.BytesIO()
    write_picture(figure, target, kind)
    return target.getvalue()


def figure_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    return _bytes(figure, "png")


def figure_svg(figure: Figure) -> str:
    """Return a figure as an SVG element for HTML."""
    text = _bytes(figure, "svg").decode()
    return text[text.index("<svg") :]


def save_picture(picture: Figure | Image.Image, path: Path) -> None:
    """Write a chart or a picture to a file, in the format of its extension."""
    write_atomic(path, lambda part: write_picture(picture, part, path.suffix.lower()[1:]))
