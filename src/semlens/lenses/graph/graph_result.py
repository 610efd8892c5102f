"""The result of ``db.attribution_graph``: nodes, edges, picture and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
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
from semlens.draw.palette import NO_VERDICT, VERDICTS
from semlens.draw.text_table import rich_table
from semlens.errors import SemlensError
from semlens.lenses.audit.audit import audit_class
from semlens.lenses.audit.audit_records import AuditSettings, audit_records
from semlens.lenses.audit.saved_audits import reviewed_as_spurious
from semlens.lenses.graph.relevance_trace import (
    TracedLayer,
)
from semlens.lenses.labelling.component_labels import ComponentLabels, label_of
from semlens.lenses.resolve_concepts import concepts_by_class
from semlens.lenses.result import IMAGE_SUFFIXES, Result
from semlens.models.target import Target
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

    target: int | None
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


def verdict_composition(
    shares: Sequence[float], verdicts: Sequence[str | None]
) -> dict[str, float]:
    """Return the share of each verdict in a group of components; they sum to 1.

    A component counts by the absolute value of its share of the layer's relevance; if all are
    zero, each counts alike.

    Parameters
    ----------
    shares
        Signed share of each component.
    verdicts
        Its verdict; None if the audit has none, which is the key "no verdict".
    """
    weights = [abs(share) for share in shares]
    total = sum(weights)
    if total == 0:
        weights, total = [1.0] * len(weights), float(len(weights))
    found = dict.fromkeys((*VERDICTS, NO_VERDICT), 0.0)
    for weight, verdict in zip(weights, verdicts, strict=True):
        found[verdict or NO_VERDICT] += weight / total
    return {verdict: share for verdict, share in found.items() if share > 0}


def with_verdicts(node: GraphNode, verdicts: Mapping[str, str]) -> GraphNode:
    """Return a group with its composition; without any verdicts, as it is.

    Parameters
    ----------
    verdicts
        By component.
    """
    if not verdicts:
        return node
    of_members = [verdicts.get(component) for component in node.components]
    return replace(node, verdicts=verdict_composition(node.shares, of_members))


def audited_verdicts(database: Database, target: int) -> dict[str, str]:
    """Return the verdicts on the components of a class, as the web application shows them.

    They come from the lists of its most recently edited saved audit, or else from the bundled
    sets; a component that a person has marked is spurious. Empty if there are no lists for the
    class and no marks, or no class relevance.
    """
    if database.manifest.relevance is None:
        return {}
    marked = dict.fromkeys(reviewed_as_spurious(database, target), "spurious")
    try:
        resolved = concepts_by_class(database)[0].get(target)
        if resolved is None:
            return marked
        settings = AuditSettings()
        if resolved.audit is not None:
            settings = audit_records(database).get(resolved.audit).settings
        frame = audit_class(database, target, resolved.concepts, settings, resamples=0).frame
    except SemlensError:  # such as an embedder without texts; the graph is complete without
        return marked
    return dict(zip(frame["component"], frame["verdict"], strict=True)) | marked


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


def build_graph(
    database: Database,
    target: Target,
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
    nodes = [GraphNode(TARGET, "", target.name, (), 1.0, 1.0)]
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
        target.index,
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
