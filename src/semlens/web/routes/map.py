"""Routes of the map: points, labels, clusters, colour values, and selections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np
import pandas as pd
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from semlens.draw.map_colours import Scale
from semlens.errors import ConceptError, SemlensError
from semlens.lenses.describe.clusters import NEIGHBOURS
from semlens.lenses.describe.concept_map import ConceptMap, has_layout
from semlens.lenses.describe.map_colouring import ColourValue
from semlens.lenses.describe.map_selection import component_labels, select
from semlens.lenses.scores import MEASURES
from semlens.web.app_state import (
    MAX_INT,
    AppState,
    Context,
    ModelContext,
    OptionalClass,
    State,
    records,
)
from semlens.web.jobs import JobPending
from semlens.web.responses import RequestModel, csv, download, tensors
from semlens.web.routes.image_experiments import error_contrast

router = APIRouter(prefix="/models/{m}", tags=["map"])

OF_CLASS = ("relevance", "contrast")
"""Colour values that are for a class."""
VALUES = (*MEASURES, *OF_CLASS)
"""Colour values computed on the server; the page colours by place, layer and verdict itself."""
_MAX_COMPONENTS = 200
_MAX_LABELS = 100


class MapPlace(BaseModel):
    """A place of the map: what it is called, and how it is drawn."""

    place: int
    size: int
    labels: list[str]
    scores: list[float]
    x: float | None
    """Middle of its name; null without labels."""
    y: float | None
    medoid: int
    """The point in its middle."""
    light: str
    """Colour in the light theme."""
    dark: str
    rings: list[list[float]]
    """Its outline: x and y of each corner in turn, for the even-odd rule."""


class MapPlaces(BaseModel):
    """How the map was computed, and its places, largest first."""

    method: str
    seed: int
    reused: bool
    added_later: int
    """Number of components that were placed into an existing layout."""
    components: int
    layout: str
    notice: str | None
    spread: bool
    """Whether each component has room for a crop with a side of 1."""
    clusters: int
    """Number of clusters before merging."""
    places: list[MapPlace]


class SelectionRows(RequestModel):
    """Rows of the selected components."""

    rows: list[Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)]]


class CountedName(BaseModel):
    """Number of selected components with a label or in a layer, of a total on the map."""

    name: str
    count: int
    share: float
    total: int


class SelectedComponent(BaseModel):
    """A selected component."""

    component: str
    label: str | None


class SelectionResponse(BaseModel):
    """Labels and layers of the selected components, and the first components by name."""

    count: int
    unlabelled: int
    source: str
    distinct_labels: int
    labels: list[CountedName]
    layers: list[CountedName]
    components: list[SelectedComponent]


SMALL = 5_000
"""Largest number of components for which the map is computed in advance, within a minute."""
_DURATION = ((2_000, "less than a minute"), (10_000, "a few minutes"))


@dataclass(frozen=True)
class LabelledMap:
    """A map, and a notice if its clusters could not be labelled."""

    map: ConceptMap
    notice: str | None


def labelled_map(
    context: ModelContext, state: AppState, *, background: bool = False
) -> LabelledMap:
    """Return the map of a model; the first computation may take UMAP minutes.

    Parameters
    ----------
    background
        Whether nobody waits for it yet; it is then computed at low priority.

    Raises
    ------
    JobPending
        While the map is being computed.
    """
    jobs, number = state.jobs, context.number
    saved = jobs.result(
        f"map-saved/{number}", "Looking for the map", lambda: has_layout([context.db]), short=True
    )
    components = f"{_components(context):,} components"
    description = f"Reading the map of {components}"
    if not saved:
        description = f"Computing the map of {components} (UMAP, k-means). {_duration(context)}"

    def compute() -> LabelledMap:
        # the layout works without an embedder; only the labels need one
        concept_map = context.db.concept_map(concepts=None)
        try:
            result = LabelledMap(concept_map.labelled(), None)
        except SemlensError as error:
            result = LabelledMap(concept_map, f"Places have no labels. {error}")
        _ = result.map.atlas  # computed here, not while a request waits
        return result

    return jobs.result(f"map/{number}", description, compute, background=background)


def prepare_maps(state: AppState) -> None:
    """Compute the maps of small databases one after the other, if they can be saved.

    At low priority, so that searches do not wait for it. Errors are raised when the map is
    requested.
    """
    for context in state.models:
        while _components(context) <= SMALL and context.db.is_writable:
            try:
                labelled_map(context, state, background=True)
            except JobPending:
                continue  # each attempt waits for a while
            except SemlensError:
                pass
            break


def _components(context: ModelContext) -> int:
    return int(context.db.has_examples.sum())


def _duration(context: ModelContext) -> str:
    count = _components(context)
    time = next((text for limit, text in _DURATION if count <= limit), "many minutes")
    if not context.db.is_writable:
        return f"This takes {time} each time the server starts: the database is read-only."
    return f"This takes {time} once: the map is saved in the database."


@router.get("/map", response_class=Response)
def map_points(context: Context, state: State) -> Response:
    """Return x, y f32[n], row i32[n], layer and place i16[n] (-1: none) as safetensors.

    The positions are those of the picture (``atlas``), not of the layout.
    """
    concept_map = labelled_map(context, state).map
    frame, points = concept_map.frame, concept_map.atlas.points
    layer = pd.Categorical(frame["layer"], context.db.layers).codes
    return tensors(
        {
            "x": np.ascontiguousarray(points[:, 0]),
            "y": np.ascontiguousarray(points[:, 1]),
            "row": concept_map.sets[0].rows.astype(np.int32),
            "layer": layer.astype(np.int16),
            "place": frame["place"].to_numpy(np.int16),
        }
    )


@router.get("/map/labels", response_class=Response)
def map_labels(context: Context, state: State) -> Response:
    """Return label i32[n] as safetensors: indices into ``names`` of the header, -1 for none."""
    labels, source = component_labels(labelled_map(context, state).map)
    code, names = pd.factorize(np.asarray(labels, object))  # missing is -1
    metadata = {"names": json.dumps([str(name) for name in names]), "source": source}
    return tensors({"label": code.astype(np.int32)}, metadata)


@router.get("/places")
def places(context: Context, state: State) -> MapPlaces:
    """Return the places of the map, and how the map was computed."""
    result = labelled_map(context, state)
    concept_map = result.map
    laid_out_first = len(concept_map) - concept_map.placed
    return MapPlaces(
        method=concept_map.method,
        seed=concept_map.seed,
        reused=concept_map.reused,
        added_later=concept_map.placed,
        components=len(concept_map),
        layout="UMAP" if laid_out_first >= NEIGHBOURS else "principal axes",
        notice=result.notice,
        spread=concept_map.atlas.spread,
        clusters=len(concept_map.clusters),
        places=[_place(concept_map, row) for row in concept_map.places.to_dict("records")],
    )


def _place(concept_map: ConceptMap, row: Mapping[str, Any]) -> MapPlace:
    atlas, number = concept_map.atlas, row["place"]
    x, y = map(float, atlas.names[number])
    return MapPlace(
        place=number,
        size=row["size"],
        labels=row["labels"],
        scores=row["scores"],
        x=x if row["labels"] else None,
        y=y if row["labels"] else None,
        medoid=int(atlas.medoids[number]),
        light=atlas.colours[number].light,
        dark=atlas.colours[number].dark,
        rings=[np.round(ring.astype(float), 2).ravel().tolist() for ring in atlas.hulls[number]],
    )


@router.get("/colours", response_class=Response)
def colours(
    context: Context,
    state: State,
    by: str,
    target: OptionalClass = None,
) -> Response:
    """Return value f32[n] (NaN: none) as safetensors, with the colour scale in the header.

    The scale has ``title``, ``low``, ``high`` and ``signed`` (whether zero is in the middle).
    ``contrast`` is the AUROC of the errors on a class against its correct predictions, minus 0.5;
    it runs the model.
    """
    _check_colour(by, target)
    concept_map = labelled_map(context, state).map

    values: list[ColourValue] = [] if target is None else [target]
    if by == "contrast" and target is not None:
        values = [error_contrast(context, state, target)]

    def compute() -> Scale:
        return cast(Scale, concept_map.coloured(by, *values).colouring)  # none gives groups

    description = f"Computing {by} of {len(concept_map):,} components"
    key = f"colours/{context.number}/{by}/{target}"
    # the scale is cached, not the response, whose headers the middleware changes
    scale = state.jobs.result(key, description, compute, large=True)
    low, high = scale.limits
    metadata = {
        "title": scale.title,
        "low": repr(low),
        "high": repr(high),
        "signed": json.dumps(scale.signed),
    }
    return tensors({"value": scale.values.astype(np.float32)}, metadata)


def _check_colour(by: str, target: int | None) -> None:
    if by not in VALUES:
        raise ConceptError(
            f"Unknown colour value '{by}'.",
            f"Expected {', '.join(VALUES[:-1])} or {VALUES[-1]}.",
            "Choose one of them.",
        )
    if (by in OF_CLASS) != (target is not None):
        received = "no class" if target is None else f"class {target}"
        raise ConceptError(
            f"Colour value '{by}' was requested with {received}.",
            "Expected a class for relevance and contrast, and no class for any other value.",
            "Choose a class." if target is None else "Leave out the class.",
        )


@router.post("/selection")
def selection(context: Context, state: State, body: SelectionRows) -> SelectionResponse:
    """Return the labels and layers of selected components."""
    selected = select(labelled_map(context, state).map, body.rows)
    return SelectionResponse(
        count=len(selected),
        unlabelled=selected.unlabelled,
        source=selected.source,
        distinct_labels=len(selected.labels),
        labels=records(
            CountedName, selected.labels.head(_MAX_LABELS).rename(columns={"label": "name"})
        ),
        layers=records(CountedName, selected.layers.rename(columns={"layer": "name"})),
        components=records(SelectedComponent, selected.frame.head(_MAX_COMPONENTS)),
    )


@router.post("/selection.csv", response_class=Response)
def selection_csv(context: Context, state: State, body: SelectionRows) -> Response:
    """Return selected components as CSV."""
    selected = select(labelled_map(context, state).map, body.rows)
    return download(csv(selected.to_pandas()), "text/csv", "selection.csv")
