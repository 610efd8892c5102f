"""Routes of the component card: examples, measures, classes, labels, senses and neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import pandas as pd
from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.analysis.describe import component_card as cards
from semlens.analysis.describe.label_candidates import Candidates
from semlens.analysis.describe.neighbours import (
    Counterpart,
    Neighbour,
    check_has_examples,
    counterpart,
    neighbours,
)
from semlens.analysis.describe.senses import Senses, sense_vectors, senses
from semlens.web.app_state import COMPONENT, AppState, Context, ModelContext, Row, State
from semlens.web.label_sources import SAVED, label_rows, label_source, label_sources, no_labels
from semlens.web.routes.overview import all_scores

router = APIRouter(tags=["card"])

Concepts = Annotated[str | None, Query(max_length=200)]


class CardLabels(BaseModel):
    """Label candidates of a component."""

    concepts: str | None
    """Label source, or null if there is none. Saved labels start with ``saved:``."""
    suggestions: Candidates | None
    notice: str | None
    choices: list[str]


@router.get(f"{COMPONENT}/measures")
def component_measures(context: Context, state: State, row: Row) -> tuple[cards.Measure, ...]:
    """Return the three measures of a component, and its percentiles in the layer."""
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
        notice=notice,
        choices=label_sources(context),
    )


@router.get(f"{COMPONENT}/senses")
def component_senses(context: Context, state: State, row: Row, concepts: Concepts = None) -> Senses:
    """Split the examples of a component into two senses, labelled if ``concepts`` is given."""
    _, frame = _layer_scores(context, state, row)
    split = senses(context.db, row, frame["polysemanticity"].to_numpy(np.float64))
    source = label_source(context, concepts) if concepts is not None else None
    if source is None or not split.senses:
        return split
    vectors = sense_vectors(context.db, row, split)
    counts = [len(sense.ranks) for sense in split.senses]
    suggestions = label_rows(context, state, source, [row] * len(vectors), vectors, counts)
    labelled = tuple(
        replace(sense, label=s.label, alignment=s.candidates[0].alignment) if s else sense
        for sense, s in zip(split.senses, suggestions, strict=True)
    )
    return replace(split, senses=labelled)


@router.get(f"{COMPONENT}/neighbours")
def component_neighbours(
    context: Context,
    state: State,
    row: Row,
    k: Annotated[int, Query(ge=1, le=100)] = 6,
    among: str | None = None,
    concepts: Concepts = None,
) -> list[Neighbour]:
    """Return the most similar components in all layers, or in the layer ``among``.

    They are labelled if ``concepts`` is given.
    """
    return _labelled(context, state, neighbours(context.db, row, k, among), concepts)


@router.get(f"{COMPONENT}/counterpart")
def component_counterpart(
    context: Context, state: State, row: Row, other: int, concepts: Concepts = None
) -> Counterpart:
    """Return the most similar component of another model."""
    other_context = state.model(other)
    result = counterpart(context.db, row, other_context.db)
    if result.nearest is None:
        return result
    nearest = _labelled(other_context, state, [result.nearest], concepts)[0]
    return replace(result, nearest=nearest)


@router.get(COMPONENT)
def component_card(context: Context, row: Row) -> cards.ComponentCard:
    """Return a component with its statistics and examples."""
    return cards.card(context.db, row)


def _labelled(
    context: ModelContext, state: AppState, nearest: Sequence[Neighbour], concepts: str | None
) -> list[Neighbour]:
    source = label_source(context, concepts) if concepts is not None else None
    if source is None:
        return list(nearest)
    rows = [context.db.row(neighbour.component) for neighbour in nearest]
    return [
        replace(neighbour, label=s.label if s else None)
        for neighbour, s in zip(nearest, label_rows(context, state, source, rows), strict=True)
    ]


def _layer_scores(context: ModelContext, state: AppState, row: int) -> tuple[int, pd.DataFrame]:
    """Return the first row of a component's layer and the measures of the layer."""
    entry = context.db.layer(context.db.component(row).layer)
    frame = all_scores(context, state).frame  # of all layers, in row order
    return entry.first, frame.iloc[entry.first : entry.first + entry.rows]
