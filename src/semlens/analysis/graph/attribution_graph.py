"""Attribution graphs: which concepts a class relies on, by layer (paper, Fig. 2c and D.5)."""

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
    make_job,
    received_relevance,
    strongest_components,
)
from semlens.analysis.graph.verdict_composition import audited_verdicts, with_verdicts
from semlens.analysis.labelling.component_names import NAMES
from semlens.analysis.labelling.label import LabelThreshold
from semlens.analysis.labelling.label_source import (
    ComponentLabels,
    LabelSource,
    as_labels,
    label_of,
)
from semlens.analysis.result import IMAGE_SUFFIXES, Result
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
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers, Target

TARGET = "target"
"""Id of the node for the class."""

UNLABELLED = "?"


def group_components(
    database: Database, layer: TracedLayer, labels: ComponentLabels, minimum: float, top: int | None
) -> dict[str, list[int]]:
    """Select traced components of a layer, and return their columns by label, strongest first.

    Parameters
    ----------
    labels
        Components without a label are grouped as "?". With None, each is a group of its own.
    minimum, top
        Selects the ``top`` strongest components with a share of at least ``minimum`` on some
        sample.
    """
    first, groups = database.layer(layer.name).first, dict[str, list[int]]()
    for column in np.flatnonzero(layer.strength >= minimum)[:top].tolist():
        component = database.component(first + int(layer.indices[column]))
        name = f"#{'-' if component.sign < 0 else ''}{component.index}"
        label = name if labels is None else label_of(labels, component) or UNLABELLED
        groups.setdefault(label, []).append(column)
    return groups


def make_node(
    database: Database, layer: TracedLayer, label: str, columns: Sequence[int]
) -> GraphNode:
    """Return the node for some traced components of a layer."""
    group_share = layer.share[:, list(columns)].sum(1)
    rows = database.layer(layer.name).first + layer.indices[list(columns)]
    maximum = float(group_share[np.abs(group_share).argmax()])
    identity, names = f"{layer.name}/{label}", tuple(database.names(rows))
    means = tuple(layer.share[:, list(columns)].mean(0, dtype=np.float64).tolist())
    return GraphNode(identity, layer.name, label, names, float(group_share.mean()), maximum, means)


def make_edges(
    names: Sequence[str],
    nodes: Mapping[str, Sequence[GraphNode]],
    weight: Mapping[str, Float[np.ndarray, "a b"]],
) -> list[GraphEdge]:
    """Return the edges, starting at the class.

    Parameters
    ----------
    names
        Names of the layers, from the lowest to the highest.
    nodes
        Nodes of each layer, in the order of the groups.
    weight
        By lower layer, the relevance that its b groups receive from the a groups of the layer
        above.
    """
    edges = [GraphEdge(TARGET, node.id, node.mean) for node in nodes[names[-1]]]
    for lower, upper in reversed(list(zip(names, names[1:], strict=False))):
        if lower in weight:
            edges += [
                GraphEdge(source.id, target.id, float(value))
                for source, weights in zip(nodes[upper], weight[lower], strict=True)
                for target, value in zip(nodes[lower], weights, strict=True)
                if value != 0
            ]
    return edges


THUMBNAIL = 128
"""Longest side of the image's thumbnail, in pixels."""
MINIMUM = 0.01
"""Minimum share of a component in the graph (paper, D.5)."""
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

    def _repr_html_(self) -> str:
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


@question("model", "images", "embedder")
def attribution_graph(
    database: Database,
    target: Target,
    concepts: LabelSource = NAMES,
    *,
    threshold: LabelThreshold = None,
    samples: Samples = IMAGES,
    images: Pictures = None,
    layers: Layers = None,
    minimum: Annotated[
        float, setting("Minimum share of a component, on its best image.", ge=0, le=1)
    ] = MINIMUM,
    top: Annotated[int | None, setting("Maximum number of components per layer.", ge=1)] = None,
    rules: RulesLike = None,
    batch_size: Annotated[
        int | None, setting("Images per pass [what memory allows].", ge=1)
    ] = None,
    verdicts: Annotated[
        bool | Mapping[str, str], setting("Show the verdicts of the class's audit, if it has one.")
    ] = True,
) -> AttributionGraph:
    """Trace the relevance of a class through groups of components.

    Relevance starts at the class's logit. In every layer, components whose share of the layer's
    absolute relevance is at least ``minimum`` on some image are selected and grouped by label.
    An edge is the relevance that arrives at a lower group if the relevance that the class
    assigns to an upper group is propagated alone.

    Parameters
    ----------
    concepts, threshold
        Source of labels: concepts, labels from :func:`semlens.label`, or labels by component.
        Components without a label are grouped as "?". With None, each component is a group of
        its own.
    samples, images
        Maximum number of samples of the class, or numbers of any samples; or pictures from
        anywhere. With a single picture, the graph is that of one prediction.
    verdicts
        Whether to show which part of each group the audit of the class calls valid or spurious,
        with its saved lists or else the bundled ones; or verdicts by component.

    Raises
    ------
    DataError
        If the class has no samples, and no samples or images are given.
    RelevanceError
        If the class does not exist, or its logit does not depend on a layer.
    """
    job = make_job(database, target, samples, images, layers, rules, batch_size)
    labels = as_labels(database, concepts, layers, threshold)
    traced = strongest_components(job)
    groups = {
        layer.name: group_components(database, layer, labels, minimum, top) for layer in traced
    }
    group_indices = {
        layer.name: [layer.indices[columns].tolist() for columns in groups[layer.name].values()]
        for layer in traced
    }
    selected = {name: sum(indices, []) for name, indices in group_indices.items()}
    return build_graph(
        database,
        job.images.target,
        traced,
        groups,
        received_relevance(job, group_indices, selected),
        verdicts=(
            verdicts
            if isinstance(verdicts, Mapping)
            else audited_verdicts(database, job.images.target)
            if verdicts
            else {}
        ),
        minimum=minimum,
        rules=job.engine.rules.name,
        example=job.images.read(job.images.samples[0]),
    )


def build_graph(
    database: Database,
    target: int,
    layers: Sequence[TracedLayer],
    groups: Mapping[str, Mapping[str, Sequence[int]]],
    received: Mapping[str, Float[np.ndarray, "s a k"]],
    *,
    verdicts: Mapping[str, str],
    minimum: float,
    rules: str,
    example: Image.Image | None = None,
) -> AttributionGraph:
    """Build a graph from traced relevance.

    The fraction of a layer that the edges explain is 1 minus the difference between the selected
    components' shares and the relevance that they receive, so that too much and too little both
    count as unexplained.

    Parameters
    ----------
    layers
        From the lowest to the highest.
    groups
        By layer and label, the columns of the selected components.
    received
        By lower layer, the relevance that its k selected components, group by group, receive from
        each of the a groups of the layer above.
    verdicts
        By component; may be empty.
    """
    nodes = [GraphNode(TARGET, "", class_name(database, target), (), 1.0, 1.0)]
    layer_nodes: dict[str, list[GraphNode]] = {}
    share_shown: dict[str, float] = {}
    edges_shown: dict[str, float] = {}
    weight: dict[str, Float[np.ndarray, "a b"]] = {}
    for layer in layers:
        name, label_columns = layer.name, groups[layer.name]
        layer_nodes[name] = [
            with_verdicts(make_node(database, layer, label, columns), verdicts)
            for label, columns in label_columns.items()
        ]
        selected = layer.share[:, sum(map(list, label_columns.values()), [])].astype(np.float64)
        share_shown[name] = float(np.abs(selected).sum(1).mean())
        edges_shown[name] = share_shown[name] if layer is layers[-1] else 0.0
        if name in received:
            # the relevance of other components, plus what differs from the received relevance
            difference = np.abs(selected - received[name].sum(1)).sum(1)
            mismatch = layer.total - np.abs(selected).sum(1) + difference
            edges_shown[name] = float(np.where(layer.total > 0, 1 - mismatch, 0).mean())
            starts = np.cumsum([0, *map(len, label_columns.values())])[:-1]
            weight[name] = np.add.reduceat(received[name].mean(0, dtype=np.float64), starts, axis=1)
    for name in reversed(layer_nodes):
        nodes += sorted(layer_nodes[name], key=lambda node: -abs(node.mean))
    return AttributionGraph(
        target,
        nodes[0].label,
        len(layers[-1].share),
        minimum,
        rules,
        tuple(nodes),
        tuple(make_edges([layer.name for layer in layers], layer_nodes, weight)),
        share_shown,
        edges_shown,
        database,
        example,
    )
