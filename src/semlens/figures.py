"""Figures of results, as data: a few forms that every view can draw.

matplotlib draws them for Python and files (``semlens.draw.figures``), the page in the browser, and
agents read their numbers. A result describes what is to be seen; it does not draw.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, PlainSerializer, TypeAdapter

from semlens.types import Component

Tone = Literal["neutral", "for", "against", "weak", "valid", "spurious", "both", "unexpected"]
"""Colour by meaning: neither, speaks for, speaks against, not significant; verdicts of an audit."""


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


Picture = Annotated[Image.Image, PlainSerializer(_data_url, return_type=str)]
"""An image; a data URL in JSON."""


@dataclass(frozen=True)
class ComponentRow:
    """A component with a value, and an interval where one is known."""

    component: Component
    value: float | None
    label: str | None = None
    low: float | None = None
    high: float | None = None
    tone: Tone = "neutral"
    note: str = ""
    """Written beside the value: "p 0.001"."""


@dataclass(frozen=True)
class Components:
    """Components with their crops and a value each."""

    title: str
    rows: Sequence[ComponentRow]
    axis: str
    """What the values are, with their unit."""
    reference: float | None = None
    """A value that separates two meanings, drawn as a line."""
    limits: tuple[float, float] | None = None
    form: Literal["components"] = "components"


@dataclass(frozen=True)
class Series:
    """Values of several names, with intervals where they are known."""

    values: Sequence[float | None]
    name: str = ""
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    tones: Sequence[Tone] = ()
    notes: Sequence[str] = ()
    """Written beside each value."""


@dataclass(frozen=True)
class Values:
    """Named values with intervals, in one series or several."""

    title: str
    names: Sequence[str]
    series: Sequence[Series]
    axis: str
    reference: float | None = None
    limits: tuple[float, float] | None = None
    stacked: bool = False
    """Whether the series are parts of one bar per name, such as shares."""
    form: Literal["values"] = "values"


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot."""

    x: float
    y: float
    name: str = ""
    group: str = ""
    """Points of a group share a colour; a group that is called as a tone has its colour."""
    size: float = 1.0
    """Area, relative to the other points."""
    component: Component | None = None
    label: str = ""
    """Written beside the point; ``name`` is shown on request."""
    x_error: float = 0.0
    y_error: float = 0.0
    """Half the length of the interval around the point."""


@dataclass(frozen=True)
class Scatter:
    """Points in a plane."""

    title: str
    points: Sequence[Point]
    x_axis: str
    y_axis: str
    x_reference: float | None = None
    y_reference: float | None = None
    diagonal: bool = False
    """Whether to draw the line where both values are equal."""
    joined: bool = False
    """Whether the points of a group are joined in their order, as a curve."""
    form: Literal["scatter"] = "scatter"


@dataclass(frozen=True)
class Matrix:
    """Values by row and column."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    axis: str
    limits: tuple[float, float] | None = None
    form: Literal["matrix"] = "matrix"


def colour_limits(values: Sequence[Sequence[float | None]]) -> tuple[float, float]:
    """Return limits of a matrix that show its differences, however small its range is."""
    known = [value for row in values for value in row if value is not None] or [0.0]
    margin = max((max(known) - min(known)) * 0.05, 1e-3)
    return min(known) - margin, max(known) + margin


@dataclass(frozen=True)
class Distribution:
    """A histogram of a group's values."""

    name: str
    edges: Sequence[float]
    counts: Sequence[int]
    """One less than ``edges``."""
    median: float | None = None
    tone: Tone = "neutral"
    note: str = ""


@dataclass(frozen=True)
class Distributions:
    """Histograms of several groups on one axis."""

    title: str
    groups: Sequence[Distribution]
    axis: str
    reference: float | None = None
    form: Literal["distributions"] = "distributions"


def histograms(
    title: str, groups: Mapping[str, np.ndarray], axis: str, bins: int | Sequence[float] = 30
) -> Distributions:
    """Return the histograms and medians of groups of values, with the same bins or edges."""
    finite = {name: values[np.isfinite(values)] for name, values in groups.items()}
    every = np.concatenate([*finite.values(), np.zeros(0)])
    edges = np.histogram_bin_edges(every, bins if isinstance(bins, int) else [*bins])
    rows = [
        Distribution(
            name,
            edges.tolist(),
            np.histogram(values, edges)[0].tolist(),
            float(np.median(values)) if len(values) else None,
        )
        for name, values in finite.items()
    ]
    return Distributions(title, rows, axis)


@dataclass(frozen=True)
class Node:
    """A node of a graph, in a column."""

    name: str
    column: int
    value: float = 0.0
    label: str = ""
    tone: Tone = "neutral"
    component: Component | None = None


@dataclass(frozen=True)
class Edge:
    """An edge between two nodes, by their places in the list of nodes."""

    source: int
    target: int
    value: float


@dataclass(frozen=True)
class Graph:
    """A tree or graph, its nodes in columns from left to right."""

    title: str
    nodes: Sequence[Node]
    edges: Sequence[Edge]
    form: Literal["graph"] = "graph"


@dataclass(frozen=True)
class PictureRow:
    """Images of one kind, with a text beside them."""

    pictures: Sequence[Picture]
    name: str = ""
    text: str = ""
    captions: Sequence[str] = ()
    """Below each image."""
    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)


@dataclass(frozen=True)
class Pictures:
    """Rows of images."""

    title: str
    rows: Sequence[PictureRow]
    form: Literal["pictures"] = "pictures"


Panel = Annotated[
    Components | Values | Scatter | Matrix | Distributions | Graph | Pictures,
    Field(discriminator="form"),
]


@dataclass(frozen=True)
class FigureSpec:
    """A figure: a title that says what is seen, and panels."""

    title: str
    panels: Sequence[Panel] = field(default=())
    columns: int = 1
    """Panels side by side, where there is room."""


_FIGURE = TypeAdapter(FigureSpec)


def figure_json(figure: FigureSpec) -> dict[str, Any]:
    """Return a figure as plain values; images become data URLs, NaN null."""
    return _FIGURE.dump_python(figure, mode="json")
