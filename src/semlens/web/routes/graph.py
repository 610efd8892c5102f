"""The attribution graph of a class: traced once, then pruned as the page's sliders say."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from semlens.analysis.classes import class_name, class_samples
from semlens.analysis.graph.attribution_graph import MINIMUM, AttributionGraph, GraphEdge, GraphNode
from semlens.analysis.graph.prune_graph import prune_graph
from semlens.analysis.graph.relevance_trace import (
    IMAGES,
    MAX_COMPONENTS,
    GraphTrace,
    reached_layers,
    trace_class,
)
from semlens.types import Component
from semlens.web.app_state import LARGEST, All, AppState, Model, ModelContext
from semlens.web.jobs import JobPending
from semlens.web.label_sources import chosen
from semlens.web.routes.classes import labels_of

router = APIRouter(prefix="/models/{m}", tags=["graph"])

TOP = 16
"""Components of a layer that are shown at first: more are hard to read."""


class GraphLayer(BaseModel):
    """One column of the graph, and how much of it is shown."""

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


class GraphResponse(BaseModel):
    """The groups of components that matter for a class, and what passes between them."""

    target: int
    name: str
    images: int
    rules: str
    conserves: bool
    """False where relevance is gradient times input, for want of rules."""
    minimum: float
    top: int
    most: int = MAX_COMPONENTS
    """Components of a layer that were traced; ``top`` can be no more."""
    groups: Literal["label", "component"]
    concepts: str | None
    """What the labels are taken from; null where there are none, and so no groups."""
    layers: list[GraphLayer]
    """From the lowest to the highest."""
    nodes: tuple[GraphNode, ...]
    """The class first, then from the highest layer to the lowest, the largest share first."""
    edges: tuple[GraphEdge, ...]
    labels: dict[str, str]
    """Of single components, by their names."""
    overall: float
    """The part of the relevance that the edges show, mean over the layers."""


class GraphQuery(BaseModel):
    """What is asked of the graph, from the query of the address."""

    target: int = Field(alias="class", ge=0, le=LARGEST)
    top: int = Field(TOP, ge=1, le=MAX_COMPONENTS)
    min_relevance: float = Field(MINIMUM, ge=0, le=1)
    groups: Literal["label", "component"] = "label"
    layers: list[str] | None = Field(None, alias="layer")
    concepts: str | None = Field(None, max_length=200)


Asked = Annotated[GraphQuery, Query()]


@router.get("/graph")
def class_graph(served: Model, serving: All, asked: Asked) -> GraphResponse:
    """Return the graph; at first it is traced, which takes from seconds to a minute."""
    drawn = _drawn(served, serving, asked)
    found, trace = drawn.graph, drawn.trace
    return GraphResponse(
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
                name=layer.name,
                components=served.db.layer(layer.name).rows,
                kept=sum(len(n.components) for n in found.nodes if n.layer == layer.name),
                largest=float(layer.strength[0]),
                nodes_shown=found.share_shown[layer.name],
                edges_shown=found.edges_shown[layer.name],
            )
            for layer in trace.layers
        ],
        nodes=found.nodes,
        edges=found.edges,
        labels={str(one): label for one, label in drawn.labels.items()},
        overall=found.overall,
    )


@router.get("/graph.svg", response_class=Response)
def graph_svg(served: Model, serving: All, asked: Asked) -> Response:
    """Return the graph as a picture for a page or a paper, light and dark."""
    found = _drawn(served, serving, asked, picture=True).graph
    return Response(found.svg(), media_type="image/svg+xml")


@router.get("/graph.png", response_class=Response)
def graph_png(served: Model, serving: All, asked: Asked) -> Response:
    """Return the same picture as pixels, two to a point."""
    held = io.BytesIO()
    _drawn(served, serving, asked, picture=True).graph.plot().save(held, "PNG")
    return Response(held.getvalue(), media_type="image/png")


@dataclass(frozen=True)
class _GraphPicture:
    graph: AttributionGraph
    trace: GraphTrace
    concepts: str | None
    labels: Mapping[Component, str]


def _drawn(
    served: ModelContext, serving: AppState, asked: GraphQuery, picture: bool = False
) -> _GraphPicture:
    """Prune the trace of the class, which is made first if there is none."""
    trace = traced(served, serving, asked.target, asked.layers)
    source = chosen(served, asked.concepts)
    grouped = asked.groups == "label" and source is not None
    labels: Mapping[Component, str] = {}
    try:
        labels = _labels(served, serving, trace, source)
    except JobPending:
        if grouped:
            raise
    example = served.db.images.read(trace.samples[0]) if picture else None
    found = prune_graph(
        trace,
        served.db,
        labels if grouped else None,
        minimum=asked.min_relevance,
        top=asked.top,
        example=example,
    )
    return _GraphPicture(found, trace, source, labels)


def _labels(
    served: ModelContext, serving: AppState, trace: GraphTrace, source: str | None
) -> Mapping[Component, str]:
    parts = [
        served.db.component(served.db.layer(layer.name).first + int(place))
        for layer in trace.layers
        for place in layer.indices
    ]
    known = labels_of(served, serving, source, parts)
    return {one: label for one, label in known.items() if label is not None}


def traced(
    served: ModelContext, serving: AppState, target: int, layers: Sequence[str] | None
) -> GraphTrace:
    """Return the trace of a class: known, kept in the database, or made now.

    Raises
    ------
    JobPending
        If it is being made.
    ModelError
        If it has to be, and there is no model.
    """
    db = served.db
    samples = class_samples(db, target, IMAGES)
    names = reached_layers(db, target, layers)

    def make() -> GraphTrace:
        with served.running("A graph is traced through the model"):
            return trace_class(db, target, samples=samples, layers=names)

    what = f"tracing '{class_name(db, target)}' through {len(samples)} images"
    return serving.work.result(f"{served.number} graph {target} {names}", what, make)
