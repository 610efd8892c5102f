"""The card of one component: who it is, its examples, measures, classes, names, senses, and kin."""

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
from semlens.analysis.label import THRESHOLD
from semlens.web.app_state import COMPONENT, All, AppState, Model, ModelContext, Row
from semlens.web.label_sources import KEPT, choices, chosen, lacking, named
from semlens.web.routes.overview import rated

router = APIRouter(tags=["card"])

Concepts = Annotated[str | None, Query(max_length=200)]


class CardLabels(BaseModel):
    """What a component might be called."""

    concepts: str | None
    """What it was named with; null where there is nothing. Kept labels begin with ``kept:``."""
    threshold: float | None
    """Least alignment of a label; not known of kept ones."""
    found: Candidates | None
    notice: str | None
    choices: list[str]


@router.get(f"{COMPONENT}/measures")
def component_measures(served: Model, serving: All, row: Row) -> tuple[cards.Measure, ...]:
    """Return the three measures of a component, and where they stand in its layer."""
    first, frame = _rated_layer(served, serving, row)
    return cards.measures(frame, row - first)


@router.get(f"{COMPONENT}/relevances")
def component_relevances(
    served: Model, row: Row, k: Annotated[int, Query(ge=1, le=100)] = 8
) -> tuple[cards.ClassShare, ...]:
    """Return the classes that a component speaks for most."""
    return cards.class_relevances(served.db, row, k)


@router.get(f"{COMPONENT}/labels")
def component_labels(
    served: Model,
    serving: All,
    row: Row,
    concepts: Concepts = None,
    k: Annotated[int, Query(ge=1, le=50)] = 5,
) -> CardLabels:
    """Return what a component might be called, by kept labels or a concept set."""
    check_has_examples(served.db, row)
    name = chosen(served, concepts)
    found = None if name is None else named(served, serving, name, [row], top=k)[0]
    notice = None
    if name is None:
        notice = lacking(served)
    elif found is None:
        notice = f"The kept labels '{name.removeprefix(KEPT)}' say nothing of this component."
    return CardLabels(
        concepts=name,
        threshold=None if name is not None and name.startswith(KEPT) else THRESHOLD,
        found=found,
        notice=notice,
        choices=choices(served),
    )


@router.get(f"{COMPONENT}/senses")
def component_senses(served: Model, serving: All, row: Row, concepts: Concepts = None) -> Senses:
    """Split a component's examples in two senses; they are named only if ``concepts`` are given."""
    _, frame = _rated_layer(served, serving, row)
    found = senses(served.db, row, frame["polysemanticity"].to_numpy(np.float64))
    name = chosen(served, concepts) if concepts is not None else None
    if name is None or not found.senses:
        return found
    vectors = sense_vectors(served.db, row, found)
    labels = named(served, serving, name, [row] * len(vectors), vectors)
    parts = tuple(
        replace(one, label=given.label, alignment=given.candidates[0].alignment) if given else one
        for one, given in zip(found.senses, labels, strict=True)
    )
    return replace(found, senses=parts)


@router.get(f"{COMPONENT}/neighbours")
def component_neighbours(
    served: Model,
    serving: All,
    row: Row,
    k: Annotated[int, Query(ge=1, le=100)] = 6,
    among: str | None = None,
    concepts: Concepts = None,
) -> list[Neighbour]:
    """Return the components most like this one, of all layers or ``among`` those of one.

    They are named only if ``concepts`` are given.
    """
    return _named(served, serving, neighbours(served.db, row, k, among), concepts)


@router.get(f"{COMPONENT}/twin")
def component_twin(
    served: Model, serving: All, row: Row, other: int, concepts: Concepts = None
) -> Counterpart:
    """Return the component of another model that is most like this one."""
    there = serving.at(other)
    found = counterpart(served.db, row, there.db)
    if found.nearest is None:
        return found
    return replace(found, nearest=_named(there, serving, [found.nearest], concepts)[0])


@router.get(COMPONENT)
def component_card(served: Model, row: Row) -> cards.ComponentCard:
    """Return who a component is, its statistics and its examples."""
    return cards.card(served.db, row)


def _named(
    served: ModelContext, serving: AppState, found: Sequence[Neighbour], concepts: str | None
) -> list[Neighbour]:
    name = chosen(served, concepts) if concepts is not None else None
    if name is None:
        return list(found)
    labels = named(served, serving, name, [served.db.row(one.component) for one in found])
    return [
        replace(one, label=given.label if given else None)
        for one, given in zip(found, labels, strict=True)
    ]


def _rated_layer(served: ModelContext, serving: AppState, row: int) -> tuple[int, pd.DataFrame]:
    """Return the first row of a component's layer, and the measures of the layer."""
    entry = served.db.layer(served.db.component(row).layer)
    frame = rated(served, serving).frame  # of all layers, in row order
    return entry.first, frame.iloc[entry.first : entry.first + entry.rows]
