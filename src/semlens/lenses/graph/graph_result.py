"""The result of ``db.attribution_graph``: nodes, edges, picture and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Group
from rich.text import Text

from semlens.draw.encode_images import encode_webp
from semlens.draw.example_picture import example_webp
from semlens.draw.graph_layout import (
    GraphEdge,
    GraphHeading,
    GraphNode,
    layout_graph,
    verdicts_text,
)
from semlens.draw.graph_picture import draw_png, draw_svg
from semlens.draw.graph_scene import Scene
from semlens.draw.text_table import rich_table
from semlens.lenses.result import IMAGE_SUFFIXES, Result
from semlens.store.reader import Database

TARGET = "target"
"""Id of the node for the class."""
THUMBNAIL = 128
"""Longest side of the image's thumbnail, in pixels."""
LINES = 12
"""Groups per layer in a terminal's table."""
LOW_COVERAGE = 0.25
"""A graph that shows less than this share of the relevance is hard to interpret."""


@dataclass(frozen=True, repr=False)
class AttributionGraph(Result):
    """Groups of components that a class relies on, and the relevance that passes between them.

    Parameters
    ----------
    target, name
        Logit and name of the class.
    images
        Number of images over which shares are averaged.
    minimum
        Components in the graph have at least this share on some image.
    rules
        Name of the relevance rules.
    nodes
        The class first, then layer by layer from the highest to the lowest, largest share first.
    edges
        From the class to the highest layer, and from each layer to the one below.
    share_shown
        By layer, the fraction of its absolute relevance that is in the graph's components, mean
        over the images.
    edges_shown
        By layer, the fraction of its absolute relevance that the edges explain: 1 minus the
        fraction that differs from what arrives through edges. Too much and too little both
        count as a difference.
    example
        The first of the images, for the picture.
    """

    suffixes = (".svg", *IMAGE_SUFFIXES, ".json")

    target: int
    name: str
    images: int
    minimum: float
    rules: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    share_shown: Mapping[str, float]
    edges_shown: Mapping[str, float]
    database: Database
    example: Image.Image | None = None

    @property
    def layers(self) -> list[str]:
        """Names of the layers, from the lowest to the highest."""
        return list(self.share_shown)

    @property
    def overall(self) -> float:
        """Fraction of the relevance that the edges explain, mean over the layers."""
        return float(np.mean(list(self.edges_shown.values())))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "target": {"logit": self.target, "name": self.name},
            "images": self.images,
            "minimum": self.minimum,
            "rules": self.rules,
            "nodes": [asdict(node) for node in self.nodes],
            "edges": [asdict(edge) for edge in self.edges],
            "share_shown": {
                "layers": dict(self.share_shown),
                "edges": dict(self.edges_shown),
                "overall": self.overall,
            },
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per node: the class, then the groups."""
        return pd.DataFrame([asdict(node) for node in self.nodes])

    def edges_to_pandas(self) -> pd.DataFrame:
        """Return one row per edge: source, target, weight."""
        return pd.DataFrame([asdict(edge) for edge in self.edges])

    def svg(self) -> str:
        """Return the picture as a self-contained SVG, for light and dark colour schemes."""
        return draw_svg(self._scene())

    def plot(self) -> Image.Image:
        """Return the picture as pixels."""
        return draw_png(self._scene())

    def _file_text(self, suffix: str) -> str | None:
        return self.svg() if suffix == ".svg" else None

    def _scene(self) -> Scene:
        return layout_graph(
            self.nodes,
            self.edges,
            GraphHeading(
                self.name, self.images, self.minimum,
                self.share_shown, self.edges_shown, self.overall,
            ),
            self._thumbnails(),
        )  # fmt: skip

    def _thumbnails(self) -> dict[str, bytes]:
        """Return the strongest example of each node's first component, and the example image."""
        thumbnails: dict[str, bytes] = {}
        if self.example is not None:
            image = self.example.convert("RGB")
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            thumbnails[TARGET] = encode_webp(image)
        for node in self.nodes:
            for row in self.database.rows_of(node.components[:1]):
                for example in self.database.examples_of(row, 1):
                    webp = example_webp(self.database, example)
                    if webp is not None:
                        thumbnails[node.id] = webp
        return thumbnails

    def _html(self) -> str:
        """Return the picture for notebooks."""
        return self.svg()

    def __rich__(self) -> Group:
        """Return a table per layer, highest first, and how much the edges explain."""
        images = f"{self.images} image" + ("s" if self.images != 1 else "")
        rendered: list[Any] = [Text(f"'{self.name}', {images}, rules {self.rules}")]
        for name in reversed(self.layers):
            nodes = [node for node in self.nodes if node.layer == name]
            frame = pd.DataFrame(
                [
                    (n.label, n.mean, n.maximum, verdicts_text(n), _few(n.components))
                    for n in nodes[:LINES]
                ],
                columns=["label", "share", "maximum", "verdicts", "components"],
            )
            if all(node.verdicts is None for node in nodes):
                frame = frame.drop(columns="verdicts")
            title = f"\n{name}: {100 * self.share_shown[name]:.0f} % of its relevance"
            more = f", {LINES} of {len(nodes)} groups" if len(nodes) > LINES else ""
            rendered.append(rich_table(frame, title + more))
        shown = f"{100 * self.overall:.0f} % of the relevance"
        summary = f"\n{len(self.edges)} connections show {shown}."
        if self.overall < LOW_COVERAGE:
            summary += f"\nLower the minimum (now {self.minimum:g}) to show more."
        return Group(*rendered, Text(summary))


def _few(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
