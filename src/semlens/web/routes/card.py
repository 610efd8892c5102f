"""Routes of the component card: examples, measures, classes, labels, senses and neighbours."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.lenses.describe import component_card as cards
from semlens.lenses.describe.label_candidates import Candidates
from semlens.lenses.describe.neighbours import (
    Counterpart,
    Neighbour,
    check_has_examples,
    counterpart,
    neighbours,
)
from semlens.lenses.labelling.component_labels import SAVED
from semlens.lenses.labelling.confidence import is_calibrated
from semlens.lenses.labelling.label import VOCABULARY
from semlens.lenses.labelling.senses import ComponentSenses, split_component
from semlens.web.app_state import COMPONENT, AppState, Context, ModelContext, Row, State
from semlens.web.label_sources import (
    embedded_set,
    label_rows,
    label_source,
    label_sources,
    no_labels,
)
from semlens.web.routes.overview import all_scores

router = APIRouter(tags=["card"])

Concepts = Annotated[str | None, Query(max_length=200)]


class CardLabels(BaseModel):
    """Label candidates of a component."""

    concepts: str | None
    """Label source, or null if there is none. Saved labels start with ``saved:``."""
    suggestions: Candidates | None
    calibrated: bool
    """Whether the confidence was calibrated for the database's embedder."""
    notice: str | None
    choices: list[str]


@router.get(f"{COMPONENT}/measures")
def component_measures(context: Context, state: State, row: Row) -> tuple[cards.Measure, ...]:
    """Return the three measures of a component, and how they compare with its layer."""
    first, frame = _layer_scores(context, state, row)
    return cards.measures(frame, row - first)


@router.get(f"{COMPONENT}/relevances")
def component_relevances(
    context: Context, row: Row, k: Annotated[int, Query(ge=1, le=100)] = 8
) -> tuple[cards.ClassShare, ...]:
    """Return the classes for which a component is most relevant."""
    return cards.class_relevances(context.db, row, k)


@router.get(f"{COMPONENT}/labels")
def component_labels(
    context: Context,
    state: State,
    row: Row,
    concepts: Concepts = None,
    k: Annotated[int, Query(ge=1, le=50)] = 5,
) -> CardLabels:
    """Return label candidates of a component, from saved labels or a concept set."""
    check_has_examples(context.db, row)
    source = label_source(context, concepts)
    suggestions = None if source is None else label_rows(context, state, source, [row], top=k)[0]
    notice = None
    if source is None:
        notice = no_labels(context)
    elif suggestions is None:
        notice = f"The saved labels '{source.removeprefix(SAVED)}' do not cover this component."
    return CardLabels(
        concepts=source,
        suggestions=suggestions,
        calibrated=suggestions is not None
        and is_calibrated(context.db.manifest.embedder.fingerprint, suggestions.method),
        notice=notice,
        choices=label_sources(context),
    )


@router.get(f"{COMPONENT}/senses")
def component_senses(context: Context, state: State, row: Row) -> ComponentSenses:
    """Split the examples of a component in two, and say whether the split is real.

    Each sense has a name if the embedder embeds texts.
    """
    db = context.db
    vocabulary = embedded_set(context, state, VOCABULARY) if db.embedder.has_text else None
    return state.jobs.result(
        f"senses {context.number} {row} {vocabulary is not None}",
        f"Splitting the examples of {db.component(row)}",
        lambda: split_component(db, row, vocabulary and vocabulary[1]),
    )


@router.get(f"{COMPONENT}/neighbours")
def component_neighbours(
    context: Context,
    row: Row,
    k: Annotated[int, Query(ge=1, le=100)] = 6,
    among: str | None = None,
) -> list[Neighbour]:
    """Return the most similar components in all layers, or in the layer ``among``."""
    return list(neighbours(context.db, row, k, among))


@router.get(f"{COMPONENT}/counterpart")
def component_counterpart(context: Context, state: State, row: Row, other: int) -> Counterpart:
    """Return the most similar component of another model."""
    return counterpart(context.db, row, state.model(other).db)


@router.get(COMPONENT)
def component_card(context: Context, row: Row) -> cards.ComponentCard:
    """Return a component with its statistics and examples."""
    return cards.card(context.db, row)


def _layer_scores(context: ModelContext, state: AppState, row: int) -> tuple[int, pd.DataFrame]:
    """Return the first row of a component's layer and the measures of the layer."""
    entry = context.db.layer(context.db.component(row).layer)
    frame = all_scores(context, state).frame  # of all layers, in row order
    return entry.first, frame.iloc[entry.first : entry.first + entry.rows]
