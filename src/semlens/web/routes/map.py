"""The map: where components lie, what they are coloured by, and what a selection holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, cast

import numpy as np
import pandas as pd
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from semlens.analysis.describe.clusters import NEIGHBOURS
from semlens.analysis.describe.concept_map import ConceptMap, has_layout
from semlens.analysis.describe.map_selection import component_labels, select
from semlens.analysis.scores import MEASURES
from semlens.draw.map_plot import Scale
from semlens.errors import ConceptError, SemlensError
from semlens.web.app_state import LARGEST, All, AppState, MaybeClass, Model, ModelContext, records
from semlens.web.jobs import JobPending
from semlens.web.responses import csv, download, tensors

router = APIRouter(prefix="/models/{m}", tags=["map"])

VALUES = (*MEASURES, "relevance")
"""What points are coloured by on the server; the browser knows clusters and layers itself."""
_LISTED = 200
_LABELS = 100


class MapCluster(BaseModel):
    """One cluster, with the place of its label."""

    cluster: int
    size: int
    labels: list[str]
    alignments: list[float]
    x: float
    y: float


class MapClusters(BaseModel):
    """How a map was made, and its clusters, largest first."""

    method: str
    seed: int
    reused: bool
    placed: int
    components: int
    way: str
    notice: str | None
    clusters: list[MapCluster]


class SelectionRows(BaseModel):
    """Components by their rows."""

    rows: list[Annotated[int, Field(ge=-LARGEST, le=LARGEST)]]


class CountedName(BaseModel):
    """How many of a selection, and of the map, have a label or are in a layer."""

    name: str
    count: int
    share: float
    of: int


class SelectedComponent(BaseModel):
    """One selected component."""

    component: str
    label: str | None


class SelectionResponse(BaseModel):
    """What some components are about; the first of them by name."""

    count: int
    unlabelled: int
    source: str
    different: int
    labels: list[CountedName]
    layers: list[CountedName]
    components: list[SelectedComponent]


SMALL = 5_000
"""Components up to which a map is laid out before anybody asks: within a minute."""
_DURATION = ((2_000, "less than a minute"), (10_000, "some minutes"))


@dataclass(frozen=True)
class LabelledMap:
    """A map, and why its clusters have no labels if they have none."""

    found: ConceptMap
    notice: str | None


def laid_map(served: ModelContext, serving: AppState) -> LabelledMap:
    """Return the model's map; made once, which may take UMAP minutes.

    Raises
    ------
    JobPending
        If it is being made.
    """
    work, number = serving.work, served.number
    kept = work.result(
        f"map-kept/{number}", "Looking for the map.", lambda: has_layout([served.db]), short=True
    )
    components = f"{_components(served):,} components"
    what = f"Reading the map of {components}."
    if not kept:
        what = (
            f"Laying out {components} by what they encode: UMAP, then k-means. {_promise(served)}"
        )

    def make() -> LabelledMap:
        # needs no embedder, and so works without one
        found = served.db.concept_map(concepts=None)
        try:
            return LabelledMap(found.labelled(), None)
        except SemlensError as error:
            return LabelledMap(found, f"Clusters have no labels. {error}")

    return work.result(f"map/{number}", what, make)


def prepare_maps(serving: AppState) -> None:
    """Have the maps of small databases made, one after the other, where they can be kept.

    What goes wrong is said to whoever asks for the map.
    """
    for served in serving.models:
        while _components(served) <= SMALL and served.db.is_writable:
            try:
                laid_map(served, serving)
            except JobPending:
                continue  # it has waited for a while
            except SemlensError:
                pass
            break


def _components(served: ModelContext) -> int:
    return int(served.db.has_examples.sum())


def _promise(served: ModelContext) -> str:
    count = _components(served)
    time = next((words for most, words in _DURATION if count <= most), "many minutes")
    if not served.db.is_writable:
        return f"This takes {time}, at each start: the database is for reading only."
    return f"This takes {time}, once: the map is kept in the database."


@router.get("/map", response_class=Response)
def map_points(model: Model, serving: All) -> Response:
    """Return x, y f32[n], row i32[n], layer, cluster i16[n] (-1: none) as safetensors."""
    found = laid_map(model, serving).found
    frame = found.frame
    layer = pd.Categorical(frame["layer"], model.db.layers).codes
    return tensors(
        {
            "x": frame["x"].to_numpy(np.float32),
            "y": frame["y"].to_numpy(np.float32),
            "row": found.sets[0].rows.astype(np.int32),
            "layer": layer.astype(np.int16),
            "cluster": frame["cluster"].to_numpy(np.int16),
        }
    )


@router.get("/map/labels", response_class=Response)
def map_labels(model: Model, serving: All) -> Response:
    """Return label i32[n] as safetensors: places in the header's ``names``, -1 for none."""
    labels, source = component_labels(laid_map(model, serving).found)
    code, names = pd.factorize(np.asarray(labels, object))  # missing is -1
    metadata = {"names": json.dumps([str(name) for name in names]), "source": source}
    return tensors({"label": code.astype(np.int32)}, metadata)


@router.get("/clusters")
def clusters(model: Model, serving: All) -> MapClusters:
    """Return the clusters of the map, and how it was made."""
    laid = laid_map(model, serving)
    found = laid.found
    return MapClusters(
        method=found.method,
        seed=found.seed,
        reused=found.reused,
        placed=found.placed,
        components=len(found),
        way="UMAP" if len(found) - found.placed >= NEIGHBOURS else "principal axes",
        notice=laid.notice,
        clusters=records(MapCluster, found.clusters),
    )


@router.get("/colours", response_class=Response)
def colours(
    model: Model,
    serving: All,
    by: str,
    target: MaybeClass = None,
) -> Response:
    """Return value f32[n] (NaN: none) as safetensors; the header has the scale.

    The scale is its ``title``, ``low``, ``high``, and ``signed`` (whether zero is the middle).
    """
    _check(by, target)
    found = laid_map(model, serving).found

    def make() -> Scale:
        coloured = found.coloured(by, *([] if target is None else [target]))
        return cast(Scale, coloured.colouring)  # measures and relevance are scales

    what = f"Computing {by} of {len(found):,} components."
    key = f"colours/{model.number}/{by}/{target}"
    # not the answer itself: what it passes through writes its headers
    scale = serving.work.result(key, what, make, large=True)
    low, high = scale.limits
    metadata = {
        "title": scale.title,
        "low": repr(low),
        "high": repr(high),
        "signed": json.dumps(scale.signed),
    }
    return tensors({"value": scale.values.astype(np.float32)}, metadata)


def _check(by: str, target: int | None) -> None:
    if by not in VALUES:
        raise ConceptError(
            f"A map has no values of '{by}'.",
            f"Expected {', '.join(VALUES[:-1])} or {VALUES[-1]}.",
            "Choose one of them.",
        )
    if (by == "relevance") != (target is not None):
        given = "no class" if target is None else f"class {target}"
        raise ConceptError(
            f"Values of {by} were asked for, with {given}.",
            "Expected a class with relevance, and none with anything else.",
            "Choose a class." if target is None else "Leave out the class.",
        )


@router.post("/selection")
def selection(model: Model, serving: All, body: SelectionRows) -> SelectionResponse:
    """Return what some components of the map are about."""
    chosen = select(laid_map(model, serving).found, body.rows)
    return SelectionResponse(
        count=len(chosen),
        unlabelled=chosen.unlabelled,
        source=chosen.source,
        different=len(chosen.labels),
        labels=records(CountedName, chosen.labels.head(_LABELS).rename(columns={"label": "name"})),
        layers=records(CountedName, chosen.layers.rename(columns={"layer": "name"})),
        components=records(SelectedComponent, chosen.frame.head(_LISTED)),
    )


@router.post("/selection.csv", response_class=Response)
def selection_csv(model: Model, serving: All, body: SelectionRows) -> Response:
    """Return some components of the map as CSV."""
    chosen = select(laid_map(model, serving).found, body.rows)
    return download(csv(chosen.to_pandas()), "text/csv", "selection.csv")
