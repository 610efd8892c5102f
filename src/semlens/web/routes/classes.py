"""Routes of classes: the list of classes, and the relevant components of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.errors import RelevanceError
from semlens.lenses.class_relevance import (
    COVERAGE,
    MINIMUM,
    LayerRelevance,
    class_table,
    relevant_components,
)
from semlens.lenses.classes import class_name
from semlens.lenses.describe.database_warnings import build_command
from semlens.types import Component
from semlens.web.app_state import AppState, Context, LayerNames, ModelContext, State, records
from semlens.web.errors import not_found
from semlens.web.jobs import JobPending, JobStatus
from semlens.web.label_sources import label_rows, label_source
from semlens.web.routes.pictures import images_of_class

router = APIRouter(prefix="/models/{m}/classes", tags=["classes"])


class ClassCount(BaseModel):
    """A class with its number of samples."""

    target: int
    """Logit."""
    name: str
    samples: int


class ClassSummary(ClassCount):
    """A class with relevance."""

    relevant: int
    """Number of components that reach 1 % of their layer's relevance on some sample."""


class RelevanceResponse(ClassCount):
    """The most relevant components of a class, layer by layer."""

    rules: str
    minimum: float
    coverage: float = COVERAGE
    """Share of the relevance that ``components_for_coverage`` refers to."""
    concepts: str | None
    """Label source; null if there is none."""
    pending_labels: JobStatus | None
    """Set while the labels are being computed: this response has none yet."""
    layers: list[LayerRelevance]


@router.get("")
def list_classes(context: Context, state: State) -> list[ClassSummary]:
    """Return the classes with relevance, ordered by logit."""
    check_relevance(context)
    table = state.jobs.result(
        f"classes {context.number}",
        "Reading the classes",
        lambda: class_table(context.db),
        short=True,
    )
    return records(ClassSummary, table)


@router.get("/{c}/samples")
def some_samples(
    context: Context, state: State, c: int, k: Annotated[int, Query(ge=1, le=100)] = 10
) -> list[int]:
    """Return the numbers of at most ``k`` samples of a class, evenly spaced.

    Where no image has a true class, they are images that the model takes for it.
    """
    return images_of_class(context, state, c, k).tolist()


@router.get("/{c}/relevance")
def class_relevance(
    context: Context,
    state: State,
    c: int,
    layers: LayerNames = None,
    k: Annotated[int, Query(ge=1, le=500)] = 20,
    minimum: Annotated[float, Query(ge=0, le=1)] = MINIMUM,
    concepts: Annotated[str | None, Query(max_length=200)] = None,
) -> RelevanceResponse:
    """Return the most relevant components of a class in every layer."""
    samples = class_samples(context, c)
    layer_relevance = relevant_components(context.db, c, layers=layers, top=k, minimum=minimum)
    source = label_source(context, concepts)
    pending_labels = None
    try:
        components = [entry.component for layer in layer_relevance for entry in layer.strongest]
        labels = component_labels(context, state, source, components)
        layer_relevance = [_labelled(layer, labels) for layer in layer_relevance]
    except JobPending as job:
        pending_labels = job.status
    entry = context.db.manifest.relevance
    return RelevanceResponse(
        target=c,
        name=class_name(context.db, c),
        samples=samples,
        rules=entry.rules if entry else "",
        minimum=minimum,
        concepts=source,
        pending_labels=pending_labels,
        layers=layer_relevance,
    )


def _labelled(layer: LayerRelevance, labels: Mapping[Component, str | None]) -> LayerRelevance:
    labelled = (replace(entry, label=labels[entry.component]) for entry in layer.strongest)
    return replace(layer, strongest=tuple(labelled))


def check_relevance(context: ModelContext) -> None:
    """Check that the database has class relevance; the error contains the command to add it."""
    db = context.db
    if db.manifest.relevance is not None:
        return
    command = build_command(db, "--relevance")
    raise RelevanceError(
        f"The database '{db.location}' has no class relevance.",
        "Expected a database that was built with relevance.",
        f"Run: {command}"
        if command
        else "Call semlens.build again with relevance=True; only the relevance is computed.",
    )


def class_samples(context: ModelContext, target: int) -> int:
    """Return the number of samples with which the relevance of a class was computed.

    Raises
    ------
    RelevanceError
        If the database has no relevance.
    HttpError
        404, if it has no relevance for this class.
    """
    check_relevance(context)
    samples = dict(context.db.relevance_classes[["class", "samples"]].to_numpy().tolist())
    if target not in samples:
        names = [f"{number} ({class_name(context.db, number)})" for number in sorted(samples)[:8]]
        more = f" and {len(samples) - len(names)} more" if len(samples) > len(names) else ""
        raise not_found(
            f"Class {target} has no relevance.",
            f"Classes with relevance: {', '.join(names)}{more}.",
        )
    return samples[target]


def component_labels(
    context: ModelContext, state: AppState, source: str | None, components: Sequence[Component]
) -> dict[Component, str | None]:
    """Return the label of each component, or None if it has none."""
    if source is None or not components:
        return dict.fromkeys(components)
    suggestions = label_rows(context, state, source, context.db.rows_of(components))
    return {c: s.label if s else None for c, s in zip(components, suggestions, strict=True)}
