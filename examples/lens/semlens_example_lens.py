"""How long or wide the crops of each component are: masts have tall ones, horizons wide ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens import Component, ConceptDatabase
from semlens.draw.text_table import rich_table
from semlens.figures import ComponentRow, Components, FigureSpec
from semlens.lens import lens
from semlens.lenses.result import Result, Section
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.types import Layers


@dataclass(frozen=True)
class CropShape:
    """Shape of the crops of one component."""

    component: Component
    examples: int
    aspect: float
    """Median of width / height; above 1 wide, below 1 tall."""
    low: float
    high: float
    """Quartiles of width / height."""
    side: float
    """Median of the square root of the area, in pixels of the original images."""

    @property
    def elongation(self) -> float:
        """How far from square the crops are, in powers of two, whether wide or tall."""
        return float(abs(np.log2(self.aspect)))


@dataclass(frozen=True, repr=False)
class CropShapes(Result):
    """Shapes of the crops of components, the most elongated first."""

    database: ConceptDatabase
    rows: Sequence[CropShape]
    top: int
    """Components to show."""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component: component, examples, aspect, low, high, side."""
        columns = list(CropShape.__dataclass_fields__)
        rows = [asdict(row) | {"component": str(row.component)} for row in self.rows]
        return pd.DataFrame(rows, columns=columns)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {"components": self.to_pandas().to_dict("records")}

    @property
    def summary(self) -> str:
        """The answer in a sentence."""
        if not self.rows:
            return "No component has examples."
        wide = sum(row.aspect >= 1.5 for row in self.rows)
        tall = sum(row.aspect <= 1 / 1.5 for row in self.rows)
        return (
            f"Of {len(self.rows)} components, {wide} have wide crops and {tall} have tall ones: "
            "one side is typically at least 1.5 times the other."
        )

    def figure(self) -> FigureSpec:
        """Return the most elongated components with their crops."""
        shown = [
            ComponentRow(row.component, row.aspect, low=row.low, high=row.high)
            for row in self.rows[: self.top]
        ]
        panel = Components("Most elongated", shown, "width / height", reference=1.0)
        return FigureSpec("Shapes of crops", [panel])

    def section(self, target: str | None = None) -> Section:
        """Return what views show."""
        limits = "Crops show where a component responds; they are no outlines of objects."
        return Section([self.summary], self.figure(), self.to_pandas(), limits)

    def __rich__(self) -> RenderableType:
        """Return the output for the terminal."""
        return Group(
            Text(self.summary), rich_table(self.to_pandas().head(self.top), "shapes of crops")
        )


@lens(
    group="Describe",
    example="crop-shapes r18.semlens --layer layer4 --save shapes.png",
    report="Shapes of the crops",
    agents=True,
)
def crop_shapes(
    database: ConceptDatabase,
    layers: Layers = None,
    *,
    examples: Annotated[int, setting("Least number of examples of a component.", ge=1)] = 2,
    top: Annotated[int, setting("Components to show.", ge=1)] = 10,
) -> CropShapes:
    """Measure how long or wide the crops of each component are.

    Edges, masts and horizons have long crops, faces and wheels square ones. Where crops are whole
    images, these are the shapes of the images.
    """
    rows = list(database.rows(layers))
    shapes: list[CropShape] = []
    for number, row in enumerate(rows, start=1):
        boxes = np.array([e.box.as_tuple() for e in database.examples_of(row)]).reshape(-1, 4)
        width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        if len(boxes) >= examples:
            low, aspect, high = np.quantile(width / height, [0.25, 0.5, 0.75])
            side = float(np.median(np.sqrt(width * height)))
            component = database.component(row)
            shapes.append(
                CropShape(component, len(boxes), float(aspect), float(low), float(high), side)
            )
        report_progress("reading crops", number, len(rows))
    shapes.sort(key=lambda shape: shape.elongation, reverse=True)
    return CropShapes(database, shapes, top)
