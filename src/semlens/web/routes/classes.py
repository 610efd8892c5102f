"""The classes, and what each relies on in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.analysis.class_relevance import (
    MINIMUM,
    MOSTLY,
    LayerRelevance,
    class_table,
    relevant_components,
)
from semlens.analysis.classes import class_name
from semlens.analysis.describe.build_command import build_command
from semlens.errors import RelevanceError
from semlens.types import Component
from semlens.web.app_state import All, AppState, LayerNames, Model, ModelContext, records
from semlens.web.errors import not_found
from semlens.web.jobs import JobPending, JobStatus
from semlens.web.label_sources import chosen, named

router = APIRouter(prefix="/models/{m}/classes", tags=["classes"])


class ClassCount(BaseModel):
    """A class with samples."""

    target: int
    """Its logit."""
    name: str
    samples: int


class ClassSummary(ClassCount):
    """One class of which relevance is known."""

    relevant: int
    """Components that reach 1 % of their layer's relevance on some sample."""


class RelevanceResponse(ClassCount):
    """What a class relies on, layer by layer."""

    rules: str
    minimum: float
    most: float = MOSTLY
    concepts: str | None
    """What the labels are taken from; null where there are none."""
    naming: JobStatus | None
    """The labels are still being made: this answer is without them."""
    layers: list[LayerRelevance]


@router.get("")
def list_classes(served: Model, serving: All) -> list[ClassSummary]:
    """Return the classes of which relevance is known, in the order of their logits."""
    check_relevance(served)
    table = serving.work.result(
        f"classes {served.number}",
        "reading the classes",
        lambda: class_table(served.db),
        short=True,
    )
    return records(ClassSummary, table)


@router.get("/{c}/relevance")
def class_relevance(
    served: Model,
    serving: All,
    c: int,
    layers: LayerNames = None,
    k: Annotated[int, Query(ge=1, le=500)] = 20,
    minimum: Annotated[float, Query(ge=0, le=1)] = MINIMUM,
    concepts: Annotated[str | None, Query(max_length=200)] = None,
) -> RelevanceResponse:
    """Return the most relevant components of every layer for a class."""
    samples = class_samples(served, c)
    found = relevant_components(served.db, c, layers=layers, top=k, minimum=minimum)
    source = chosen(served, concepts)
    naming = None
    try:
        parts = [one.component for layer in found for one in layer.strongest]
        labels = labels_of(served, serving, source, parts)
        found = [_labelled(layer, labels) for layer in found]
    except JobPending as work:
        naming = work.state
    entry = served.db.manifest.relevance
    return RelevanceResponse(
        target=c,
        name=class_name(served.db, c),
        samples=samples,
        rules=entry.rules if entry else "",
        minimum=minimum,
        concepts=source,
        naming=naming,
        layers=found,
    )


def _labelled(layer: LayerRelevance, labels: Mapping[Component, str | None]) -> LayerRelevance:
    named = (replace(one, label=labels[one.component]) for one in layer.strongest)
    return replace(layer, strongest=tuple(named))


def check_relevance(served: ModelContext) -> None:
    """Refuse a database without class relevance, with the command that adds it."""
    db = served.db
    if db.manifest.relevance is not None:
        return
    command = build_command(db, "--relevance")
    raise RelevanceError(
        f"The database '{db.path}' has no class relevance.",
        "Expected one that was built with --relevance.",
        f"Run: {command}"
        if command
        else "Call semlens.build again with relevance=True: only that is computed.",
    )


def class_samples(served: ModelContext, target: int) -> int:
    """Return on how many samples the relevance of a class was measured.

    Raises
    ------
    RelevanceError
        If the database has no relevance at all.
    Refused
        If it has none of this class.
    """
    check_relevance(served)
    known = dict(served.db.relevance_classes[["class", "samples"]].to_numpy().tolist())
    if target not in known:
        names = [f"{number} ({class_name(served.db, number)})" for number in sorted(known)[:8]]
        more = f" and {len(known) - len(names)} more" if len(known) > len(names) else ""
        raise not_found(
            f"There is no relevance of class {target}.",
            f"There is of {', '.join(names)}{more}.",
        )
    return known[target]


def labels_of(
    served: ModelContext, serving: AppState, source: str | None, components: Sequence[Component]
) -> dict[Component, str | None]:
    """Return the label of each of some components; None where nothing names it."""
    if source is None or not components:
        return dict.fromkeys(components)
    found = named(served, serving, source, served.db.rows_of(components))
    return {one: of.label if of else None for one, of in zip(components, found, strict=True)}
