"""The overview of a database: what it is, what it lacks, and how clear its components are."""

from __future__ import annotations

from typing import Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel

from semlens.analysis.describe.cautions import cautions
from semlens.analysis.describe.distribution import MEANINGS, Distribution, Spread, distributions
from semlens.analysis.describe.overview import class_table, sample_queries, settings_in_words
from semlens.analysis.result import plain
from semlens.analysis.scores import Scores
from semlens.web.embedder import SharedEmbedder
from semlens.web.served import All, Model, Served, Serving

router = APIRouter(prefix="/models/{m}", tags=["overview"])


class SourceInfo(BaseModel):
    """A model, data set or embedder."""

    spec: str
    fingerprint: str


class Setting(BaseModel):
    """One setting of the build, in words."""

    name: str
    text: str


class LayerSummary(BaseModel):
    """One layer."""

    layer: int
    name: str
    form: str
    components: int
    signs: str
    """``both`` where negative directions count, else ``+``."""
    crop: str
    without_examples: int
    not_finite: int
    """Samples on which some component was not finite."""


class ClassCount(BaseModel):
    """A class that has readable samples."""

    index: int
    """Its logit."""
    name: str
    samples: int


class CautionInfo(BaseModel):
    """Something that is missing or wrong, and how it is mended."""

    kind: str
    text: str
    remedy: str
    command: str | None


class SampleQuery(BaseModel):
    """A query that is likely to find something."""

    text: str
    origin: Literal["label", "class", "general"]


class Counts(BaseModel):
    """How many there are of everything."""

    components: int
    without_examples: int
    samples: int
    unreadable: int
    crops: int
    classes: int | None
    """Outputs of the model, where it names them."""


class Overview(BaseModel):
    """What a database is."""

    name: str
    path: str
    fingerprint: str
    model: SourceInfo
    data: SourceInfo
    embedder: SourceInfo
    counts: Counts
    settings: list[Setting]
    layers: list[LayerSummary]
    cautions: list[CautionInfo]
    queries: list[SampleQuery]
    classes: list[ClassCount]


class LayerSpread(BaseModel):
    """One measure in one layer."""

    layer: int
    name: str
    components: int
    """How many components have the measure."""
    counts: list[int]
    mean: float | None
    quartiles: tuple[float | None, float | None, float | None]


class MeasureSpread(BaseModel):
    """One measure in all layers, over common bins."""

    measure: str
    definition: str
    reading: str
    """What high and low values mean."""
    equation: str
    better: Literal["high", "low"]
    edges: list[float]
    """A bin holds ``edges[i] <= value < edges[i + 1]``."""
    layers: list[LayerSpread]


@router.get("/overview")
def overview(served: Model) -> Overview:
    """Say what the database is, what it lacks, and what may be asked of it first."""
    db, made = served.db, served.db.manifest
    embedder = db.embedder
    shared = embedder if isinstance(embedder, SharedEmbedder) else None
    found = cautions(
        db,
        data=served.data,
        embedder=embedder.spec,
        failure=shared.failure if shared else None,
        ready=shared is None or shared.ready,
        texts=embedder.has_text,
    )
    summary = db.summary().to_dict("records")
    for number, record in enumerate(summary):
        record["name"], record["layer"] = record["layer"], number
    return Overview(
        name=served.name,
        path=str(db.path.resolve()),
        fingerprint=db.fingerprint,
        model=SourceInfo(**vars(made.model)),
        data=SourceInfo(**vars(made.data)),
        embedder=SourceInfo(**vars(made.embedder)),
        counts=Counts(
            components=made.rows,
            without_examples=int((~db.alive).sum()),
            samples=made.samples,
            unreadable=made.unreadable,
            crops=sum(made.crops),
            classes=None if made.classes is None else len(made.classes),
        ),
        settings=[Setting(name=name, text=text) for name, text in settings_in_words(made)],
        layers=[LayerSummary(**record) for record in summary],
        cautions=[CautionInfo(**vars(caution)) for caution in found],
        queries=[SampleQuery(**vars(query)) for query in sample_queries(db)],
        classes=[
            ClassCount(index=record["class"], name=record["name"], samples=record["samples"])
            for record in class_table(db).to_dict("records")
        ],
    )


def rated(served: Served, serving: Serving) -> Scores:
    """Return the measures of all components; the first time that may take minutes.

    Raises
    ------
    StillWorking
        If they are not there yet.
    """
    return serving.work.result(
        f"scores {served.number}", "rating the components", lambda _: served.db.scores()
    )


@router.get("/scores")
def scores(served: Model, serving: All) -> list[MeasureSpread]:
    """Return how each measure is distributed in each layer, and how to read it."""
    found = rated(served, serving)
    spreads = serving.work.result(
        f"spreads {served.number}",
        "counting",
        lambda _: distributions(found.frame),
        short=True,
    )
    return [_measure(served, spread) for spread in spreads]


def _measure(served: Served, found: Distribution) -> MeasureSpread:
    return MeasureSpread(
        measure=found.measure,
        edges=found.edges.tolist(),
        layers=[_layer(served.db.layers, spread) for spread in found.layers],
        **vars(MEANINGS[found.measure]),
    )


def _layer(names: list[str], spread: Spread) -> LayerSpread:
    return LayerSpread(
        layer=names.index(spread.layer),
        name=spread.layer,
        components=spread.components,
        counts=spread.counts.tolist(),
        mean=plain(np.float64(spread.mean)),
        quartiles=tuple(plain(list(spread.quartiles))),
    )
