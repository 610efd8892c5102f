"""Figures of results (``semlens.figures``), drawn by matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import zip_longest
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import FancyBboxPatch

from semlens.draw.example_sheet import example_pictures
from semlens.draw.figure import HEAT, INK, LINE, PAPER, SERIES, SIGNED, SOFT, styled
from semlens.draw.palette import AGAINST, FOR, VERDICTS
from semlens.draw.plot_elements import (
    colour_bar,
    dot_handles,
    in_percent,
    ink_on,
    name_columns,
    name_rows,
    show_in_cell,
    side_by_side,
    stacked_bar,
)
from semlens.figures import (
    Components,
    Distributions,
    FigureSpec,
    Graph,
    Matrix,
    Panel,
    Pictures,
    Scatter,
    Values,
)
from semlens.store.reader import Database

TONES: Mapping[str, str] = MappingProxyType(
    {"neutral": SERIES[0], "for": FOR, "against": AGAINST, "weak": "#9aa5b3", **VERDICTS}
)
"""Colours by meaning."""
CROPS, CROP = 4, 30
"""Examples beside a component, and their side in points."""
CELL = 0.85
"""Side of an image in inches."""
WRITTEN = 16
"""A matrix with at most so many columns has its values written in its cells."""
AROUND = 0.9
"""Height of the title and the axis of rows, in inches."""
LETTERS = 30
"""Longest name of a row."""
LARGEST, DOT = 260.0, 22.0
"""Area in square points of the largest point, and of each if all are equally large."""


@styled
def draw_figure(spec: FigureSpec, database: Database | None) -> Figure:
    """Draw a figure.

    Parameters
    ----------
    database
        Of the components in the figure; their examples are shown beside them.
    """
    columns = min(max(spec.columns, 1), len(spec.panels) or 1)
    rows = [spec.panels[i : i + columns] for i in range(0, len(spec.panels), columns)]
    heights = [max(_size(panel)[1] for panel in row) for row in rows]
    widths = [
        max(_size(panel)[0] for panel in column if panel is not None)
        for column in zip_longest(*rows)
    ]
    size = (sum(widths) or 4.0, sum(heights) + 0.35)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(spec.title, int(11 * size[0]))), x=0.01, ha="left")
    if rows:
        grid = figure.add_gridspec(len(rows), columns, height_ratios=heights, width_ratios=widths)
    for place, panel in enumerate(spec.panels):
        axes = figure.add_subplot(grid[place // columns, place % columns])  # pyright: ignore[reportPossiblyUnboundVariable]
        axes.set_title("\n".join(textwrap.wrap(panel.title, 64, break_on_hyphens=False)))
        _draw(axes, panel, database)
        if isinstance(panel, Components | Values | Distributions):  # rows as high as elsewhere
            stretch = (heights[place // columns] - AROUND) / (_size(panel)[1] - AROUND)
            low, high = axes.get_ylim()
            axes.set_ylim(high + stretch * (low - high), high)
    return figure


def _size(panel: Panel) -> tuple[float, float]:
    """Return width and height in inches."""
    match panel:
        case Components():
            return 7.6, AROUND + 0.5 * max(len(panel.rows), 1)
        case Values():
            bars = 1 if panel.stacked else max(len(panel.series), 1)
            return 6.6, AROUND + (0.14 + 0.16 * bars) * max(len(panel.names), 1)
        case Scatter():
            return 6.6, 4.6
        case Matrix():
            side = 0.34 if len(panel.columns) > WRITTEN else 0.5
            return 2.2 + side * len(panel.columns), 1.2 + 0.4 * len(panel.rows)
        case Distributions():
            return 6.6, AROUND + 0.5 * max(len(panel.groups), 1)
        case Graph():
            counts = _column_counts(panel)
            return 0.4 + 2.1 * len(counts), 0.6 + 0.5 * max(counts, default=1)
        case Pictures():
            text = 2.2 if any(row.text for row in panel.rows) else 0.0
            height = CELL * _pitch(panel) * max(len(panel.rows), 1)
            return max(6.6, 1.2 + CELL * _picture_columns(panel) + text), 0.4 + height


def _draw(axes: Axes, panel: Panel, database: Database | None) -> None:
    match panel:
        case Components():
            _components(axes, panel, database)
        case Values():
            _values(axes, panel)
        case Scatter():
            _scatter(axes, panel)
        case Matrix():
            _matrix(axes, panel)
        case Distributions():
            _distributions(axes, panel)
        case Graph():
            _graph(axes, panel)
        case Pictures():
            _pictures(axes, panel)


def _components(axes: Axes, panel: Components, database: Database | None) -> None:
    """Draw a row per component: its name, its examples, and its value."""
    most = 0
    for place, row in enumerate(panel.rows):
        colour = TONES[row.tone]
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=colour, lw=2)
        elif row.value is not None:
            start = panel.reference or 0.0
            axes.plot([start, row.value], [place, place], color=colour, lw=2, alpha=0.45)
        if row.value is not None:
            axes.plot(row.value, place, "o", color=colour, ms=5, clip_on=False)
        _note(axes, place, row.note)
        if database is not None:
            (number,) = database.rows_of(row.component)
            crops = example_pictures(database, number, CROPS, mask=True)
            most = max(most, len(crops))
            for index, crop in enumerate(crops):
                image = OffsetImage(np.asarray(crop), zoom=CROP / max(crop.size))
                offset = (-8 - (CROP + 2) * (len(crops) - index - 0.5), 0)
                axes.add_artist(
                    AnnotationBbox(
                        image, (0, place), offset, ("axes fraction", "data"),
                        boxcoords="offset points", frameon=False, pad=0,
                    )
                )  # fmt: skip
    names = [
        _short(str(row.component)) if not row.label else f"{_short(row.label)}\n{row.component}"
        for row in panel.rows
    ]
    name_rows(axes, names)
    axes.tick_params(axis="y", pad=12 + (CROP + 2) * most, labelcolor=INK)
    _value_axis(axes, panel)


def _values(axes: Axes, panel: Values) -> None:
    """Draw a row per name, with bars side by side, or points where there are intervals."""
    if panel.stacked:
        _stacked(axes, panel)
    else:
        offsets, thickness = side_by_side(len(panel.series) or 1, 0.76)
        for index, series in enumerate(panel.series):
            for place, value in enumerate(series.values):
                tone = series.tones[place] if series.tones else "neutral"
                colour = SERIES[index % len(SERIES)] if tone == "neutral" else TONES[tone]
                y = place + float(offsets[index])
                low, high = (ends[place] if ends else None for ends in (series.low, series.high))
                if value is not None and low is not None and high is not None:
                    axes.plot([low, high], [y, y], color=colour, lw=2)
                    axes.plot(value, y, "o", color=colour, ms=5, clip_on=False)
                elif value is not None:
                    axes.barh(y, value, 0.92 * thickness, color=colour)
                _note(axes, y, series.notes[place] if series.notes else "")
    name_rows(axes, [_short(name) for name in panel.names])
    axes.tick_params(axis="y", labelcolor=INK)
    _value_axis(axes, panel)
    named = [series.name for series in panel.series]
    if len(named) > 1:
        colours = dict(zip(named, [_group_colour(n, i) for i, n in enumerate(named)], strict=True))
        _legend(axes, colours)


def _stacked(axes: Axes, panel: Values) -> None:
    for place in range(len(panel.names)):
        segments: list[tuple[float, str, str]] = []
        for index, series in enumerate(panel.series):
            share = series.values[place] or 0.0
            note = series.notes[place] if series.notes else f"{100 * share:.0f} %"
            segments.append((share, _group_colour(series.name, index), note))
        stacked_bar(axes, place, segments)
    axes.set_xlim(0, 1)
    in_percent(axes.xaxis)
    axes.spines["left"].set_visible(False)


def _value_axis(axes: Axes, panel: Components | Values) -> None:
    axes.set_xlabel(panel.axis)
    if isinstance(panel, Components) or not panel.stacked:
        axes.axvline(panel.reference or 0.0, color=LINE, lw=1, zorder=0)
        axes.margins(x=0.06)
    if panel.limits is not None:
        axes.set_xlim(*panel.limits)


def _scatter(axes: Axes, panel: Scatter) -> None:
    for value, line in ((panel.x_reference, axes.axvline), (panel.y_reference, axes.axhline)):
        if value is not None:
            line(value, color=LINE, lw=1, zorder=0)
    if panel.diagonal:
        axes.axline((0, 0), slope=1, color=LINE, lw=1, ls="--", zorder=0)
    groups = list(dict.fromkeys(point.group for point in panel.points))
    colours = {group: _group_colour(group, index) for index, group in enumerate(groups)}
    largest = max((point.size for point in panel.points), default=1.0)
    equal = len({point.size for point in panel.points}) <= 1
    many = len(panel.points) > 300
    for group in groups:
        points = [point for point in panel.points if point.group == group]
        x, y = np.array([(point.x, point.y) for point in points], float).T
        if any(point.x_error or point.y_error for point in points):
            x_errors, y_errors = ([getattr(p, e) for p in points] for e in ("x_error", "y_error"))
            axes.errorbar(x, y, y_errors, x_errors, fmt="none", ecolor=LINE, elinewidth=1, zorder=1)
        if panel.joined:
            axes.plot(x, y, color=colours[group], lw=1.6)
        areas = [(DOT / (3 if many else 1)) if equal else LARGEST * max(point.size, 0) / largest
                 for point in points]  # fmt: skip
        axes.scatter(x, y, areas, colours[group], alpha=0.65, edgecolors=PAPER, linewidths=0.5,
                     zorder=2, rasterized=many)  # fmt: skip
    for point in panel.points:
        if point.label:
            axes.annotate(_short(point.label), (point.x, point.y), (5, 4), color=INK, fontsize=8,
                          textcoords="offset points", zorder=3)  # fmt: skip
    axes.margins(0.08)
    axes.set(xlabel=panel.x_axis, ylabel=panel.y_axis)
    if len(groups) > 1:
        counts = {g: sum(point.group == g for point in panel.points) for g in groups}
        _legend(axes, {f"{g} ({counts[g]})": colours[g] for g in groups}
                if not panel.joined else colours)  # fmt: skip


def _matrix(axes: Axes, panel: Matrix) -> None:
    if not panel.rows or not panel.columns:
        axes.set_axis_off()
        return
    cells = np.array([[np.nan if v is None else v for v in row] for row in panel.values], float)
    finite = cells[np.isfinite(cells)]
    low, high = panel.limits or (finite.min(initial=0.0), finite.max(initial=0.0))
    signed = low < 0 < high
    if signed and panel.limits is None:
        high = max(-low, high)
        low = -high
    mesh = axes.imshow(cells, SIGNED if signed else HEAT, vmin=low, vmax=high, aspect="auto")
    if len(panel.columns) <= WRITTEN:
        digits = 2 if np.abs(finite).max(initial=0.0) < 10 else 0
        for (row, column), value in np.ndenumerate(cells):
            if np.isfinite(value):
                axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center",
                          fontsize=8, color=ink_on(mesh.to_rgba(value)))  # fmt: skip
    name_rows(axes, [_short(name) for name in panel.rows])
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    name_columns(axes, [_short(name) for name in panel.columns], 7 * len(panel.columns))
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    colour_bar(axes, mesh, fraction=0.05, pad=0.02, label=panel.axis)


def _distributions(axes: Axes, panel: Distributions) -> None:
    """Draw a histogram per row, each as high as its row."""
    if panel.reference is not None:
        axes.axvline(panel.reference, color=SOFT, lw=0.8, ls=(0, (3, 3)), zorder=0)
    for place, group in enumerate(panel.groups):
        colour = TONES[group.tone]
        counts = np.asarray(group.counts, float)
        heights = 0.78 * counts / (counts.max(initial=0.0) or 1.0)
        axes.stairs(
            place + 0.4 - heights, group.edges, baseline=place + 0.4, fill=True, color=colour,
            alpha=0.5,
        )  # fmt: skip
        if group.median is not None:
            axes.plot([group.median] * 2, [place - 0.38, place + 0.4], color=colour, lw=1.6)
        _note(axes, place, group.note)
    names = [f"{_short(group.name)}\nn = {sum(group.counts)}" for group in panel.groups]
    name_rows(axes, names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(panel.axis)


def _graph(axes: Axes, panel: Graph) -> None:
    """Draw the nodes of each column from top to bottom, and edges as wide as they are strong."""
    counts = _column_counts(panel)
    tallest = max(counts, default=1)
    seen = [0] * len(counts)
    centres: list[tuple[float, float]] = []
    for node in panel.nodes:
        gap = tallest / counts[node.column]
        centres.append((float(node.column), gap * (seen[node.column] + 0.5)))
        seen[node.column] += 1
    strongest = max((abs(edge.value) for edge in panel.edges), default=0.0) or 1.0
    turn = np.linspace(0, 1, 24)
    bend = turn**2 * (3 - 2 * turn)
    for edge in panel.edges:
        (x0, y0), (x1, y1) = sorted((centres[edge.source], centres[edge.target]))
        axes.plot(
            x0 + 0.38 + (x1 - x0 - 0.76) * turn, y0 + (y1 - y0) * bend,
            color=FOR if edge.value >= 0 else AGAINST, alpha=0.5, solid_capstyle="butt", zorder=1,
            lw=max(0.6, 6 * abs(edge.value) / strongest),
        )  # fmt: skip
    for node, (x, y) in zip(panel.nodes, centres, strict=True):
        colour = LINE if node.tone == "neutral" else TONES[node.tone]
        axes.add_patch(
            FancyBboxPatch((x - 0.38, y - 0.36), 0.76, 0.72, "round,pad=0,rounding_size=0.06",
                           fc=PAPER, ec=colour, lw=1.2, zorder=2)
        )  # fmt: skip
        up, down = (0.14, 0.17) if node.label else (0.0, 0.0)
        axes.text(x - 0.34, y - up, _short(node.name, 24), va="center", fontsize=8, zorder=3)
        axes.text(x - 0.34, y + down, _short(node.label, 30), va="center", fontsize=6.5,
                  color=SOFT, zorder=3)  # fmt: skip
    axes.set(xlim=(-0.45, max(len(counts), 1) - 0.55), ylim=(tallest + 0.05, -0.05))
    axes.set_axis_off()


def _column_counts(panel: Graph) -> list[int]:
    """Return the number of nodes in each column."""
    columns = [node.column for node in panel.nodes]
    return [columns.count(column) for column in range(max(columns, default=-1) + 1)]


def _pictures(axes: Axes, panel: Pictures) -> None:
    """Draw a row of images per row, and its text behind them."""
    pitch, columns = _pitch(panel), _picture_columns(panel)
    for place, row in enumerate(panel.rows):
        y = pitch * place
        for column, picture in enumerate(row.pictures):
            show_in_cell(axes, picture, column, y)
        for column, caption in enumerate(row.captions):
            axes.text(column + 0.5, y + 0.52, _short(caption, 16), ha="center", va="top",
                      fontsize=7, color=SOFT)  # fmt: skip
        if row.text:
            axes.text(columns + 0.1, y, textwrap.fill(row.text, 34), va="center", fontsize=8,
                      color=SOFT)  # fmt: skip
    places = [pitch * place for place in range(len(panel.rows))]
    axes.set_yticks(places, [_short(row.name, 24) for row in panel.rows])
    axes.set(xlim=(0, columns), ylim=(pitch * max(len(panel.rows) - 1, 0) + pitch - 0.48, -0.52))
    axes.set_xticks([])
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_aspect("equal", anchor="NW")


def _pitch(panel: Pictures) -> float:
    """Return the height of a row in units of an image."""
    return 1.25 if any(row.captions for row in panel.rows) else 1.02


def _picture_columns(panel: Pictures) -> int:
    return max((len(row.pictures) for row in panel.rows), default=0) or 1


def _group_colour(name: str, index: int) -> str:
    return TONES.get(name, SERIES[index % len(SERIES)])


def _legend(axes: Axes, colours: Mapping[str, str]) -> None:
    """Put a legend below the axes, where it hides nothing."""
    axes.legend(
        handles=dot_handles(colours), loc="upper left", bbox_to_anchor=(0, -0.5 / _inches(axes)),
        ncols=min(len(colours), 4), borderaxespad=0, columnspacing=1.2, handletextpad=0.2,
    )  # fmt: skip


def _inches(axes: Axes) -> float:
    """Return the height of axes before their layout."""
    return axes.get_position().height * axes.figure.get_size_inches()[1]  # pyright: ignore[reportAttributeAccessIssue]


def _note(axes: Axes, y: int | float, text: str) -> None:
    """Write a text to the right of the axes, at the height of a row."""
    if text:
        axes.text(1.02, y, text, va="center", fontsize=7.5, color=SOFT,
                  transform=axes.get_yaxis_transform())  # fmt: skip


def _short(text: str, length: int = LETTERS) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
