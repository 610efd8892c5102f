"""Attribution graphs: which concepts a class rests on, layer by layer (paper, Fig. 2c and D.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image
from rich.console import Group
from rich.text import Text

from semlens.analysis.classes import Pictures, Samples, class_name
from semlens.analysis.database_engine import RulesLike
from semlens.analysis.graph.relevance_trace import (
    IMAGES,
    TracedLayer,
    arrivals,
    make_job,
    strongest,
)
from semlens.analysis.label import VOCABULARY, LabelSource, Named, as_labels, label_of
from semlens.analysis.result import IMAGE_SUFFIXES, Result
from semlens.draw.encode_images import encoded
from semlens.draw.graph_layout import GraphEdge, GraphNode, Heading, Scene, arrange
from semlens.draw.graph_picture import draw_png, draw_svg
from semlens.draw.text_table import rich_table
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers, Target

TARGET = "target"
"""The id of the node that stands for the class."""

UNLABELLED = "?"


def keep_groups(
    database: Database, layer: TracedLayer, labels: Named, minimum: float, top: int | None
) -> dict[str, list[int]]:
    """Return by label which of a layer's traced components are kept, largest share first.

    Parameters
    ----------
    labels
        Components without one are grouped as "?". None makes each a group of its own.
    minimum, top
        Components whose share reaches ``minimum`` on some sample, and of those the ``top``
        strongest.
    """
    first, found = database.layer(layer.name).first, dict[str, list[int]]()
    for column in np.flatnonzero(layer.strength >= minimum)[:top].tolist():
        component = database.component(first + int(layer.places[column]))
        own = f"#{'-' if component.sign < 0 else ''}{component.index}"
        label = own if labels is None else label_of(labels, component) or UNLABELLED
        found.setdefault(label, []).append(column)
    return found


def make_node(
    database: Database, layer: TracedLayer, label: str, columns: Sequence[int]
) -> GraphNode:
    """Return the node of some traced components of a layer."""
    together = layer.share[:, list(columns)].sum(1)
    rows = database.layer(layer.name).first + layer.places[list(columns)]
    largest = float(together[np.abs(together).argmax()])
    identity, names = f"{layer.name}/{label}", tuple(database.names(rows))
    return GraphNode(identity, layer.name, label, names, float(together.mean()), largest)


def make_edges(
    names: Sequence[str],
    of: Mapping[str, Sequence[GraphNode]],
    weight: Mapping[str, Float[np.ndarray, "a b"]],
) -> list[GraphEdge]:
    """Return the edges from the class down.

    Parameters
    ----------
    names
        The layers, from the lowest to the highest.
    of
        Their nodes, in the order of the groups.
    weight
        By lower layer: what comes to its groups from those of the layer above.
    """
    found = [GraphEdge(TARGET, node.id, node.mean) for node in of[names[-1]]]
    for lower, upper in reversed(list(zip(names, names[1:], strict=False))):
        if lower in weight:
            found += [
                GraphEdge(source.id, target.id, float(value))
                for source, row in zip(of[upper], weight[lower], strict=True)
                for target, value in zip(of[lower], row, strict=True)
                if value != 0
            ]
    return found


THUMBNAIL = 128
MINIMUM = 0.01
"""Least share of a component that is kept (paper, D.5)."""
THRESHOLD = 0.01
"""Least alignment of a group's label."""
LINES = 12
"""Groups of a layer in a terminal's table."""
LITTLE = 0.25
"""Under this share of the relevance, a graph says too little to be read."""


@dataclass(frozen=True, repr=False)
class AttributionGraph(Result):
    """The groups of components that matter for a class, and what passes between them.

    Parameters
    ----------
    target, name
        The class: its logit and its name.
    images
        Over how many images the shares are taken.
    minimum
        Components whose share reaches it on some image were kept.
    rules
        The rules of relevance.
    nodes
        The class first, then layer by layer from the highest to the lowest, the largest
        share first.
    edges
        From the class to the highest layer, and from each layer to the one below.
    share_shown
        By layer: the part of its absolute relevance that the kept components carry, mean over
        the images.
    edges_shown
        By layer: the part of its absolute relevance that edges between kept components
        explain. It is 1 less the part that differs, and so falls when too much arrives as
        when too little does.
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
    """The first of the images, for the picture."""

    @property
    def layers(self) -> list[str]:
        """Names of the layers, from the lowest to the highest."""
        return list(self.share_shown)

    @property
    def overall(self) -> float:
        """The share of relevance that the edges show, mean over the layers."""
        return float(np.mean(list(self.edges_shown.values())))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
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
        """Return the nodes: the class, then the groups."""
        return pd.DataFrame([asdict(node) for node in self.nodes])

    def edges_to_pandas(self) -> pd.DataFrame:
        """Return the edges: source, target, weight."""
        return pd.DataFrame([asdict(edge) for edge in self.edges])

    def svg(self) -> str:
        """Return the picture as a self-contained SVG, for light and dark pages."""
        return draw_svg(self._scene())

    def plot(self) -> Image.Image:
        """Return the picture as pixels."""
        return draw_png(self._scene())

    def _file_text(self, suffix: str) -> str | None:
        return self.svg() if suffix == ".svg" else None

    def _scene(self) -> Scene:
        return arrange(
            self.nodes,
            self.edges,
            Heading(
                self.name, self.images, self.minimum,
                self.share_shown, self.edges_shown, self.overall,
            ),
            self._thumbnails(),
        )  # fmt: skip

    def _thumbnails(self) -> dict[str, bytes]:
        """Return the strongest example of each node's first component, and one image."""
        found: dict[str, bytes] = {}
        if self.example is not None:
            small = self.example.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            found[TARGET] = encoded(small)
        for node in self.nodes:
            for row in self.database.rows_of(node.components[:1]):
                for example in self.database.examples_of(row, 1):
                    webp = self.database.thumbnail(example.crop)
                    if webp is not None:
                        found[node.id] = webp
        return found

    def _repr_html_(self) -> str:
        """Return the picture for notebooks."""
        return self.svg()

    def __rich__(self) -> Group:
        """Return a table per layer, the highest first, and how much the edges show."""
        images = f"{self.images} image" + ("s" if self.images != 1 else "")
        parts: list[Any] = [Text(f"'{self.name}', {images}, rules {self.rules}")]
        for name in reversed(self.layers):
            nodes = [node for node in self.nodes if node.layer == name]
            frame = pd.DataFrame(
                [(n.label, n.mean, n.maximum, _few(n.components)) for n in nodes[:LINES]],
                columns=["label", "share", "maximum", "components"],
            )
            title = f"\n{name}: {self.share_shown[name]:.0%} of its relevance"
            more = f", {LINES} of {len(nodes)} groups" if len(nodes) > LINES else ""
            parts.append(rich_table(frame, title + more))
        shown = f"\n{len(self.edges)} connections show {self.overall:.0%} of the relevance."
        if self.overall < LITTLE:
            shown += f"\nLower the minimum (it was {self.minimum:g}) to see more of it."
        return Group(*parts, Text(shown))


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@question("model", "images", "embedder")
def attribution_graph(
    database: Database,
    target: Target,
    concepts: LabelSource = VOCABULARY,
    *,
    threshold: Annotated[float, setting("Least alignment of a label.", ge=-2, le=2)] = THRESHOLD,
    samples: Samples = IMAGES,
    images: Pictures = None,
    layers: Layers = None,
    minimum: Annotated[
        float, setting("Least share of a component, on its best image.", ge=0, le=1)
    ] = MINIMUM,
    top: Annotated[int | None, setting("Components per layer at most.", ge=1)] = None,
    rules: RulesLike = None,
    batch_size: Annotated[
        int | None, setting("Images that are traced together [what memory allows].", ge=1)
    ] = None,
) -> AttributionGraph:
    """Trace the relevance of a class down through groups of components.

    Relevance starts at the class's logit. In every layer the components are kept whose share
    of the layer's absolute relevance reaches ``minimum`` on some image, and grouped by their
    label. An edge is what arrives at a lower group when relevance starts at an upper group
    only, with what the class has brought there.

    Parameters
    ----------
    concepts, threshold
        What labels are taken from: concepts, labels from :func:`semlens.label`, or labels by
        component; those without are grouped as "?". None makes each component a group of its
        own.
    samples, images
        How many samples of the class at most, or the numbers of any samples; or pictures from
        anywhere. One picture gives a graph of that picture.

    Raises
    ------
    DataError
        If the class has no samples, and none are named.
    RelevanceError
        If the class does not exist, or a layer is not on the way to it.
    """
    job = make_job(database, target, samples, images, layers, rules, batch_size)
    labels = as_labels(database, concepts, layers, threshold)
    traced = strongest(job)
    groups = {layer.name: keep_groups(database, layer, labels, minimum, top) for layer in traced}
    starts = {
        layer.name: [layer.places[columns].tolist() for columns in groups[layer.name].values()]
        for layer in traced
    }
    came = arrivals(job, starts, {name: sum(part, []) for name, part in starts.items()})
    return assemble(
        database,
        job.images.target,
        traced,
        groups,
        came,
        minimum=minimum,
        rules=job.engine.rules.name,
        example=job.images.read(job.images.samples[0]),
    )


def assemble(
    database: Database,
    target: int,
    layers: Sequence[TracedLayer],
    groups: Mapping[str, Mapping[str, Sequence[int]]],
    came: Mapping[str, Float[np.ndarray, "s a k"]],
    *,
    minimum: float,
    rules: str,
    example: Image.Image | None = None,
) -> AttributionGraph:
    """Put the numbers of a graph together.

    How much of a layer the edges explain is 1 less what differs between the kept components'
    shares and what has come to them, so that too much and too little count alike.

    Parameters
    ----------
    layers
        From the lowest to the highest.
    groups
        By layer and label, which of the traced components are kept.
    came
        By lower layer: what comes to its kept components, group after group, from each group
        of the layer above.
    """
    nodes = [GraphNode(TARGET, "", class_name(database, target), (), 1.0, 1.0)]
    of: dict[str, list[GraphNode]] = {}
    shown: dict[str, float] = {}
    explained: dict[str, float] = {}
    weight: dict[str, Float[np.ndarray, "a b"]] = {}
    for layer in layers:
        name, parts = layer.name, groups[layer.name]
        of[name] = [make_node(database, layer, label, part) for label, part in parts.items()]
        kept = layer.share[:, sum(map(list, parts.values()), [])].astype(np.float64)
        shown[name] = float(np.abs(kept).sum(1).mean())
        explained[name] = shown[name] if layer is layers[-1] else 0.0
        if name in came:
            missing = layer.mass - np.abs(kept).sum(1) + np.abs(kept - came[name].sum(1)).sum(1)
            explained[name] = float(np.where(layer.mass > 0, 1 - missing, 0).mean())
            ends = np.cumsum([0, *map(len, parts.values())])[:-1]
            weight[name] = np.add.reduceat(came[name].mean(0, dtype=np.float64), ends, axis=1)
    for name in reversed(of):
        nodes += sorted(of[name], key=lambda node: -abs(node.mean))
    return AttributionGraph(
        target,
        nodes[0].label,
        len(layers[-1].share),
        minimum,
        rules,
        tuple(nodes),
        tuple(make_edges([layer.name for layer in layers], of, weight)),
        shown,
        explained,
        database,
        example,
    )
