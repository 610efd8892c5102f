"""The card of one component: who it is, its examples, measures, classes, names and senses."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from semlens.analysis.describe import card as cards
from semlens.analysis.describe.candidates import Candidates
from semlens.analysis.describe.neighbours import check_alive
from semlens.analysis.describe.senses import senses
from semlens.analysis.label import THRESHOLD
from semlens.web.routes.overview import rated
from semlens.web.routes.place import Row
from semlens.web.served import All, Model, Served, Serving
from semlens.web.vocabulary import KEPT, choices, chosen, lacking, named

router = APIRouter(prefix="/models/{m}/components/{layer}/{index}", tags=["card"])

Concepts = Annotated[str | None, Query(max_length=200)]


class _Read(BaseModel):
    """An answer that is read off a result of the analysis, name by name."""

    model_config = ConfigDict(from_attributes=True)


class PixelBox(_Read):
    """A rectangle in upright original pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


class CardExample(_Read):
    """One concept example, the strongest first."""

    place: int
    """From 0: the number of its crop."""
    sample: int
    path: str
    of_class: str | None
    activation: float
    box: PixelBox
    masked: bool
    """Whether there is a display mask."""


class CardStatistic(_Read):
    """One number about all images, and what it means."""

    name: str
    value: float | None
    meaning: str


class ComponentCard(_Read):
    """Who a component is, how it behaves on all images, and its examples."""

    row: int
    layer: int
    index: int
    name: str
    layer_name: str
    layer_rows: int
    channel: int
    sign: int
    readout: str
    crop: str
    """How its examples were cut out."""
    thumbnails: bool
    statistics: list[CardStatistic]
    examples: list[CardExample]


class CardMeasure(BaseModel):
    """One measure of interpretability, and where it stands in the layer."""

    name: str
    value: float | None
    below: float | None
    """Share of the layer's components with a lower value."""
    counts: list[int]
    """Components of the layer per bin of equal width from ``low`` to ``high``."""
    low: float | None
    high: float | None
    definition: str
    reading: str
    formula: str
    equation: str
    """Where it stands in the paper."""
    better: Literal["high", "low"]


class CardRelevance(_Read):
    """How much a component matters for a class, as shares of its layer's relevance."""

    logit: int
    name: str
    mean: float
    max: float
    rank: int
    """Among the layer's components, by mean."""
    components: int


class CardCandidate(_Read):
    """A concept that might name a component."""

    name: str
    category: str
    alignment: float


class CardLabels(BaseModel):
    """What a component might be called."""

    concepts: str | None
    """What it was named with; null where there is nothing."""
    kept: bool
    """Whether those are labels that the database keeps."""
    threshold: float | None
    """Least alignment of a label; not known of kept ones."""
    label: str | None
    candidates: list[CardCandidate]
    margin: float | None
    """Alignment of the best less that of the next other name."""
    notice: str | None
    choices: list[str]


class CardSense(BaseModel):
    """One of two clusters of a component's examples."""

    places: list[int]
    share: float
    label: str | None
    alignment: float | None


class CardSenses(BaseModel):
    """The two-way split of a component's examples."""

    meaningful: bool
    rule: str
    polysemanticity: float | None
    limit: float | None
    """The layer's upper quartile."""
    senses: list[CardSense]


@router.get("")
def component_card(served: Model, row: Row) -> ComponentCard:
    """Return who a component is, its statistics and its examples."""
    return ComponentCard.model_validate(cards.card(served.db, row))


@router.get("/measures")
def component_measures(served: Model, serving: All, row: Row) -> list[CardMeasure]:
    """Return the three measures of a component, and where they stand in its layer."""
    first, frame = _rated_layer(served, serving, row)
    return [
        CardMeasure(
            name=one.name,
            value=one.value,
            below=one.below,
            counts=list(one.counts),
            low=one.low,
            high=one.high,
            formula=one.formula,
            **vars(one.meaning),
        )
        for one in cards.measures(frame, row - first)
    ]


@router.get("/relevances")
def component_relevances(
    served: Model, row: Row, k: Annotated[int, Query(ge=1, le=100)] = 8
) -> list[CardRelevance]:
    """Return the classes that a component speaks for most."""
    return [CardRelevance.model_validate(one) for one in cards.class_relevances(served.db, row, k)]


@router.get("/labels")
def component_labels(
    served: Model,
    serving: All,
    row: Row,
    concepts: Concepts = None,
    k: Annotated[int, Query(ge=1, le=50)] = 5,
) -> CardLabels:
    """Return what a component might be called, by kept labels or a concept set."""
    check_alive(served.db, row)
    name = chosen(served, concepts)
    found = None if name is None else named(served, serving, name, [row], top=k)[0]
    kept = name is not None and name.startswith(KEPT)
    notice = None
    if name is None:
        notice = lacking(served)
    elif found is None:
        notice = f"The kept labels '{name.removeprefix(KEPT)}' say nothing of this component."
    return CardLabels(
        concepts=name,
        kept=kept,
        threshold=None if kept else THRESHOLD,
        label=found.label if found else None,
        candidates=[
            CardCandidate.model_validate(one) for one in (found.candidates if found else ())
        ],
        margin=found.margin if found else None,
        notice=notice,
        choices=choices(served),
    )


@router.get("/senses")
def component_senses(
    served: Model, serving: All, row: Row, concepts: Concepts = None
) -> CardSenses:
    """Split a component's examples in two senses; they are named only if ``concepts`` are given."""
    _, frame = _rated_layer(served, serving, row)
    found = senses(served.db, row, frame["polysemanticity"].to_numpy(np.float64))
    labels: list[Candidates | None] = [None] * len(found.senses)
    name = chosen(served, concepts) if concepts is not None else None
    if name is not None and found.senses:
        vectors = np.stack([sense.vector for sense in found.senses])
        labels = named(served, serving, name, [row] * len(vectors), vectors)
    return CardSenses(
        meaningful=found.meaningful,
        rule=found.rule,
        polysemanticity=found.polysemanticity,
        limit=found.limit,
        senses=[
            CardSense(
                places=list(sense.places),
                share=sense.share,
                label=given.label if given else None,
                alignment=given.candidates[0].alignment if given else None,
            )
            for sense, given in zip(found.senses, labels, strict=True)
        ],
    )


def _rated_layer(served: Served, serving: Serving, row: int) -> tuple[int, pd.DataFrame]:
    """Return the first row of a component's layer, and the measures of the layer."""
    entry = served.db.layer(served.db.component(row).layer)
    frame = rated(served, serving).frame  # of all layers, in row order
    return entry.first, frame.iloc[entry.first : entry.first + entry.rows]
