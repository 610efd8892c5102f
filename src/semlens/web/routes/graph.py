"""The attribution graph of a class: traced once, then pruned as the page's sliders say."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from semlens.analysis.graph.graph import MINIMUM, AttributionGraph
from semlens.analysis.graph.groups import TARGET, GraphNode
from semlens.analysis.graph.prune import prune
from semlens.analysis.graph.trace import MOST, GraphTrace
from semlens.store.reader import BuiltImages
from semlens.types import Component
from semlens.web.routes.classes import labels_of
from semlens.web.routes.place import ClassNumber, layer_names
from semlens.web.served import All, Model, Served, Serving
from semlens.web.traced import traced
from semlens.web.vocabulary import chosen
from semlens.web.work import StillWorking

router = APIRouter(prefix="/models/{m}", tags=["graph"])

TOP = 16
"""Components of a layer that are shown at first: more are hard to read."""


class GraphPart(BaseModel):
    """One component of a node."""

    row: int
    layer: int
    index: int
    name: str
    label: str | None


class GraphGroup(BaseModel):
    """The kept components of a layer that share a label, or the class itself."""

    id: str
    layer: int | None
    """Null for the class."""
    label: str
    components: list[GraphPart]
    """The one of the largest share first."""
    mean: float
    """Their part in the layer's relevance, mean over the images; below zero: against the class."""
    max: float
    """The same on the image where it is largest in size."""


class GraphLink(BaseModel):
    """What reaches ``target`` when relevance starts at ``source``, the upper one, only."""

    source: str
    target: str
    weight: float
    """In shares of the lower layer's relevance."""


class GraphLayer(BaseModel):
    """One column of the graph, and how much of it is shown."""

    layer: int
    name: str
    components: int
    kept: int
    """How many of them are in the graph."""
    largest: float
    """The largest share of a component on any image."""
    nodes_shown: float
    """The part of its relevance that the kept components carry."""
    edges_shown: float
    """The part of its relevance that the edges explain."""


class Graph(BaseModel):
    """The groups of components that matter for a class, and what passes between them."""

    target: int
    name: str
    images: int
    rules: str
    conserves: bool
    """False where relevance is gradient times input, for want of rules."""
    minimum: float
    top: int
    most: int = MOST
    """Components of a layer that were traced; ``top`` can be no more."""
    groups: Literal["label", "component"]
    concepts: str | None
    """What the labels are taken from; null where there are none, and so no groups."""
    layers: list[GraphLayer]
    """From the lowest to the highest."""
    nodes: list[GraphGroup]
    """The class first, then from the highest layer to the lowest, the largest share first."""
    edges: list[GraphLink]
    overall: float
    """The part of the relevance that the edges show, mean over the layers."""


class Asked:
    """What is asked of the graph, from the query of the address."""

    def __init__(
        self,
        target: ClassNumber,
        top: Annotated[int, Query(ge=1, le=MOST)] = TOP,
        min_relevance: Annotated[float, Query(ge=0, le=1)] = MINIMUM,
        groups: Literal["label", "component"] = "label",
        layer: Annotated[list[int] | None, Query()] = None,
        concepts: Annotated[str | None, Query(max_length=200)] = None,
    ) -> None:
        self.target = target
        self.top = top
        self.minimum = min_relevance
        self.groups: Literal["label", "component"] = groups
        self.layers = layer
        self.concepts = concepts


Question = Annotated[Asked, Depends()]


@router.get("/graph")
def class_graph(served: Model, serving: All, asked: Question) -> Graph:
    """Return the graph; at first it is traced, which takes from seconds to a minute."""
    drawn = _drawn(served, serving, asked)
    found, trace = drawn.graph, drawn.trace
    numbers = {name: number for number, name in enumerate(served.db.layers)}
    return Graph(
        target=found.target,
        name=found.name,
        images=found.images,
        rules=found.rules,
        conserves=found.rules != "gradient",
        minimum=found.minimum,
        top=asked.top,
        groups="component" if drawn.concepts is None else asked.groups,
        concepts=drawn.concepts,
        layers=[
            GraphLayer(
                layer=numbers[layer.name],
                name=layer.name,
                components=served.db.layer(layer.name).rows,
                kept=sum(len(n.components) for n in found.nodes if n.layer == layer.name),
                largest=float(layer.strength[0]),
                nodes_shown=found.share_shown[layer.name],
                edges_shown=found.edges_shown[layer.name],
            )
            for layer in trace.layers
        ],
        nodes=[_group(served, numbers, node, drawn.labels) for node in found.nodes],
        edges=[
            GraphLink(source=edge.source, target=edge.target, weight=edge.weight)
            for edge in found.edges
        ],
        overall=found.overall,
    )


@router.get("/graph.svg", response_class=Response)
def graph_svg(served: Model, serving: All, asked: Question) -> Response:
    """Return the graph as a picture for a page or a paper, light and dark."""
    found = _drawn(served, serving, asked, picture=True).graph
    return Response(found.svg(), media_type="image/svg+xml")


@router.get("/graph.png", response_class=Response)
def graph_png(served: Model, serving: All, asked: Question) -> Response:
    """Return the same picture as pixels, two to a point."""
    held = io.BytesIO()
    _drawn(served, serving, asked, picture=True).graph.picture().save(held, "PNG")
    return Response(held.getvalue(), media_type="image/png")


@dataclass(frozen=True)
class _Drawn:
    graph: AttributionGraph
    trace: GraphTrace
    concepts: str | None
    labels: Mapping[Component, str]


def _drawn(served: Served, serving: Serving, asked: Asked, picture: bool = False) -> _Drawn:
    """Prune the trace of the class, which is made first if there is none."""
    layers = layer_names(served, asked.layers or ())
    trace = traced(served, serving, asked.target, layers)
    source = chosen(served, asked.concepts)
    grouped = asked.groups == "label" and source is not None
    labels: Mapping[Component, str] = {}
    try:
        labels = _labels(served, serving, trace, source)
    except StillWorking:
        if grouped:
            raise
    example = BuiltImages(served.db, served.data).read(trace.samples[0]) if picture else None
    found = prune(
        trace,
        served.db,
        labels if grouped else None,
        minimum=asked.minimum,
        top=asked.top,
        example=example,
    )
    return _Drawn(found, trace, source, labels)


def _labels(
    served: Served, serving: Serving, trace: GraphTrace, source: str | None
) -> Mapping[Component, str]:
    db = served.db
    rows = [
        db.layer(layer.name).first + int(place) for layer in trace.layers for place in layer.places
    ]
    known = labels_of(served, serving, source, rows)
    return {db.component(row): label for row, label in known.items() if label is not None}


def _group(
    served: Served, numbers: Mapping[str, int], node: GraphNode, labels: Mapping[Component, str]
) -> GraphGroup:
    parts: list[GraphPart] = []
    for component in map(Component.parse, node.components):
        row = served.db.row(component)
        parts.append(
            GraphPart(
                row=row,
                layer=numbers[node.layer],
                index=row - served.db.layer(node.layer).first,
                name=str(component),
                label=labels.get(component),
            )
        )
    return GraphGroup(
        id=node.id,
        layer=None if node.id == TARGET else numbers[node.layer],
        label=node.label,
        components=parts,
        mean=node.mean,
        max=node.maximum,
    )
