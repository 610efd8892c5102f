"""The overview of a database: what it is, what it lacks, and how clear its components are."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from semlens.analysis.describe.database_warnings import DatabaseWarning, database_warnings
from semlens.analysis.describe.overview import (
    SuggestedQuery,
    class_table,
    describe_settings,
    sample_queries,
)
from semlens.analysis.describe.score_distribution import Distribution, distributions
from semlens.analysis.scores import Scores
from semlens.store.manifest import Source
from semlens.web.app_state import All, AppState, Model, ModelContext, records
from semlens.web.embedder import SharedEmbedder
from semlens.web.routes.classes import ClassCount
from semlens.web.routes.models import LayerInfo, layers_of

router = APIRouter(prefix="/models/{m}", tags=["overview"])


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
    model: Source
    data: Source
    embedder: Source
    counts: Counts
    settings: dict[str, str]
    """Of the build, in words."""
    layers: list[LayerInfo]
    cautions: list[DatabaseWarning]
    queries: list[SuggestedQuery]
    classes: list[ClassCount]


@router.get("/overview")
def overview(served: Model) -> Overview:
    """Say what the database is, what it lacks, and what may be asked of it first."""
    db, made = served.db, served.db.manifest
    embedder = db.embedder
    shared = embedder if isinstance(embedder, SharedEmbedder) else None
    found = database_warnings(
        db,
        failure=shared.failure if shared else None,
        ready=shared is None or shared.ready,
        texts=embedder.has_text,
    )
    return Overview(
        name=served.name,
        path=str(db.path.resolve()),
        fingerprint=db.fingerprint,
        model=made.model,
        data=made.data,
        embedder=made.embedder,
        counts=Counts(
            components=made.rows,
            without_examples=int((~db.has_examples).sum()),
            samples=made.samples,
            unreadable=made.unreadable,
            crops=sum(made.crops),
            classes=None if made.classes is None else len(made.classes),
        ),
        settings=dict(describe_settings(made)),
        layers=layers_of(db),
        cautions=found,
        queries=sample_queries(db),
        classes=records(ClassCount, class_table(db)),
    )


def rated(served: ModelContext, serving: AppState) -> Scores:
    """Return the measures of all components; the first time that may take minutes.

    Raises
    ------
    StillWorking
        If they are not there yet.
    """
    return serving.work.result(f"scores {served.number}", "rating the components", served.db.scores)


@router.get("/scores")
def scores(served: Model, serving: All) -> list[Distribution]:
    """Return how each measure is distributed in each layer, and how to read it."""
    found = rated(served, serving)
    return serving.work.result(
        f"spreads {served.number}", "counting", lambda: distributions(found.frame), short=True
    )
