"""Routes of the attribution graph: traced once per class, then pruned with the given settings."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from semlens.draw.graph_layout import GraphEdge, GraphNode
from semlens.errors import SemlensError
from semlens.lenses.classes import class_name
from semlens.lenses.graph.attribution_graph import MINIMUM, prune_graph
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.graph.relevance_trace import (
    IMAGES,
    MAX_COMPONENTS,
    GraphTrace,
    graph_layers,
    trace_class,
)
from semlens.types import Component
from semlens.web.app_state import MAX_INT, AppState, Context, ModelContext, State
from semlens.web.jobs import JobPending
from semlens.web.label_sources import label_source
from semlens.web.routes.classes import component_labels
from semlens.web.routes.pictures import images_of_class
from semlens.web.routes.verdicts import class_verdicts

router = APIRouter(prefix="/models/{m}", tags=["graph"])

TOP = 16
"""Components per layer by default; more are hard to read."""


class GraphLayer(BaseModel):
    """A layer of the graph, and how much of it is shown."""

    name: str
    components: int
    components_shown: int
    """Number of components in the graph."""
    largest_share: float
    """Largest share of a component on any image."""
    nodes_shown: float
    """Share of the layer's relevance in the components shown."""
    edges_shown: float
    """Share of the layer's relevance that the edges explain."""


class GraphResponse(BaseModel):
    """The attribution graph of a class: groups of components, and the relevance between them."""

    target: int
    name: str
    images: int
    rules: str
    conserves: bool
    """False if relevance is gradient times input, for models without rules."""
    minimum: float
    top: int
    max_top: int = MAX_COMPONENTS
    """Components per layer that were traced; upper limit of ``top``."""
    groups: Literal["label", "component"]
    concepts: str | None
    """Label source; null if there is none, and then components are not grouped."""
    layers: list[GraphLayer]
    """From lowest to highest."""
    nodes: tuple[GraphNode, ...]
    """The class, then the layers from highest to lowest, each with the largest share first."""
    edges: tuple[GraphEdge, ...]
    overall: float
    """Share of the relevance that the edges show, averaged over layers."""
    judged: bool
    """Whether the nodes have verdicts; false also while the classes are being audited."""


class GraphQuery(BaseModel):
    """Query parameters of the graph."""

    target: int = Field(alias="class", ge=0, le=MAX_INT)
    top: int = Field(TOP, ge=1, le=MAX_COMPONENTS)
    min_relevance: float = Field(MINIMUM, ge=0, le=1)
    groups: Literal["label", "component"] = "label"
    layers: list[str] | None = Field(None, alias="layer")
    concepts: str | None = Field(None, max_length=200)


GraphParams = Annotated[GraphQuery, Query()]


@router.get("/graph")
def class_graph(context: Context, state: State, query: GraphParams) -> GraphResponse:
    """Return the graph; tracing it the first time takes seconds to a minute."""
    pruned = _pruned(context, state, query)
    graph, trace = pruned.graph, pruned.trace
    return GraphResponse(
        target=query.target,
        name=graph.name,
        images=graph.images,
        rules=graph.rules,
        conserves=graph.rules != "gradient",
        minimum=graph.minimum,
        top=query.top,
        groups="component" if pruned.concepts is None else query.groups,
        concepts=pruned.concepts,
        layers=[
            GraphLayer(
                name=layer.name,
                components=context.db.layer(layer.name).rows,
                components_shown=sum(
                    len(node.components) for node in graph.nodes if node.layer == layer.name
                ),
                largest_share=float(layer.strength[0]),
                nodes_shown=graph.share_shown[layer.name],
                edges_shown=graph.edges_shown[layer.name],
            )
            for layer in trace.layers
        ],
        nodes=graph.nodes,
        edges=graph.edges,
        overall=graph.overall,
        judged=pruned.judged,
    )


@router.get("/graph.svg", response_class=Response)
def graph_svg(context: Context, state: State, query: GraphParams) -> Response:
    """Return the graph as SVG, for light and dark backgrounds."""
    graph = _pruned(context, state, query, image=True).graph
    return Response(graph.svg(), media_type="image/svg+xml")


@router.get("/graph.png", response_class=Response)
def graph_png(context: Context, state: State, query: GraphParams) -> Response:
    """Return the graph as PNG at twice the size."""
    buffer = io.BytesIO()
    _pruned(context, state, query, image=True).graph.plot().save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png")


@dataclass(frozen=True)
class _PrunedGraph:
    graph: AttributionGraph
    trace: GraphTrace
    concepts: str | None
    judged: bool


def _pruned(
    context: ModelContext, state: AppState, query: GraphQuery, image: bool = False
) -> _PrunedGraph:
    """Prune the trace of the class, which is computed first if necessary."""
    trace = class_trace(context, state, query.target, query.layers)
    source = label_source(context, query.concepts)
    grouped = query.groups == "label" and source is not None
    verdicts = _verdicts(context, state, query.target)
    example = context.db.images.read(trace.samples[0]) if image else None
    graph = prune_graph(
        trace,
        context.db,
        _labels(context, state, trace, source) if grouped else None,
        minimum=query.min_relevance,
        top=query.top,
        verdicts=verdicts,
        example=example,
    )
    return _PrunedGraph(graph, trace, source, bool(verdicts))


def _verdicts(context: ModelContext, state: AppState, target: int) -> dict[str, str]:
    """Return the verdicts on the class's components; empty if there are none, or not yet."""
    try:
        response = class_verdicts(context, state, target)
    except (JobPending, SemlensError):  # the graph is complete without
        return {}
    return {entry.component: entry.verdict for entry in response.components}


def _labels(
    context: ModelContext, state: AppState, trace: GraphTrace, source: str | None
) -> Mapping[Component, str]:
    components = [
        context.db.component(context.db.layer(layer.name).first + int(index))
        for layer in trace.layers
        for index in layer.indices
    ]
    labels = component_labels(context, state, source, components)
    return {component: label for component, label in labels.items() if label is not None}


def class_trace(
    context: ModelContext, state: AppState, target: int, layers: Sequence[str] | None
) -> GraphTrace:
    """Return the trace of a class, from the cache or the database if it was computed before.

    Raises
    ------
    JobPending
        While the trace is being computed.
    ModelError
        If it must be computed and the model is not available.
    """
    db = context.db
    samples = images_of_class(context, state, target, IMAGES)
    names = graph_layers(db, target, layers)

    def compute() -> GraphTrace:
        with context.run_model("Tracing a graph"):
            return trace_class(db, target, samples=samples.tolist(), layers=names)

    description = f"Tracing '{class_name(db, target)}' through {len(samples)} images"
    return state.jobs.result(f"{context.number} graph {target} {names}", description, compute)
