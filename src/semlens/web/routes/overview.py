"""Routes of the overview: sources, warnings, score distributions, and images of the classes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
from semlens.draw.example_sheet import image_strip
from semlens.lenses.classes import class_samples
from semlens.lenses.describe.database_warnings import DatabaseWarning, database_warnings
from semlens.lenses.describe.overview import (
    class_table,
    describe_settings,
    kept_predictions,
    predicted_samples,
    predicted_table,
)
from semlens.lenses.describe.score_distribution import MeasureDistribution, distributions
from semlens.lenses.labelling.senses import most_polysemantic
from semlens.lenses.scores import Scores
from semlens.store.manifest import Source
from semlens.web.app_state import (
    COMPONENT,
    MAX_INT,
    AppState,
    Context,
    ModelContext,
    Row,
    State,
    records,
)
from semlens.web.embedder import SharedEmbedder
from semlens.web.routes.classes import ClassCount
from semlens.web.routes.models import LayerInfo, layer_infos
from semlens.web.routes.pictures import WEBP, CachedTag, Version, picture_response, predictions

TWO_SENSES = 5
"""Components with two senses that are listed."""

router = APIRouter(prefix="/models/{m}", tags=["overview"])


class Counts(BaseModel):
    """Sizes of a database."""

    components: int
    without_examples: int
    samples: int
    unreadable: int
    crops: int
    classes: int | None
    """Number of outputs of the model, if they have names."""


class Overview(BaseModel):
    """Overview of a database."""

    name: str
    path: str
    fingerprint: str
    model: Source
    data: Source
    embedder: Source
    counts: Counts
    settings: dict[str, str]
    """Settings of the build as readable text."""
    layers: list[LayerInfo]
    warnings: list[DatabaseWarning]
    classes: list[ClassCount]


@router.get("/overview")
def overview(context: Context) -> Overview:
    """Return the sources, sizes and warnings of a database."""
    db, manifest = context.db, context.db.manifest
    embedder = db.embedder
    shared = embedder if isinstance(embedder, SharedEmbedder) else None
    warnings = database_warnings(
        db,
        failure=shared.failure if shared else None,
        ready=shared is None or shared.ready,
        texts=embedder.has_text,
    )
    return Overview(
        name=context.name,
        path=db.location,
        fingerprint=db.fingerprint,
        model=manifest.model,
        data=manifest.data,
        embedder=manifest.embedder,
        counts=Counts(
            components=manifest.rows,
            without_examples=int((~db.has_examples).sum()),
            samples=manifest.samples,
            unreadable=manifest.unreadable,
            crops=sum(manifest.crops),
            classes=None if manifest.classes is None else len(manifest.classes),
        ),
        settings=dict(describe_settings(manifest)),
        layers=layer_infos(db),
        warnings=warnings,
        classes=records(ClassCount, class_table(db)),
    )


def all_scores(context: ModelContext, state: AppState) -> Scores:
    """Return the measures of all components; the first computation may take minutes.

    Raises
    ------
    JobPending
        While they are being computed.
    """
    return state.jobs.result(f"scores {context.number}", "Computing the scores", context.db.scores)


@router.get("/scores")
def scores(context: Context, state: State) -> list[MeasureDistribution]:
    """Return the distribution of each measure in each layer, with its explanation."""
    frame = all_scores(context, state).frame
    return state.jobs.result(
        f"distributions {context.number}",
        "Computing the distributions",
        lambda: distributions(frame),
        short=True,
    )


class TwoSenses(BaseModel):
    """A component with two senses."""

    row: int
    component: str
    polysemanticity: float


class Polysemantic(BaseModel):
    """The most polysemantic components with two senses."""

    components: list[TwoSenses]
    tested: int
    """Components whose examples were split and tested, the most polysemantic ones."""
    examples: int
    """Examples of a component, at most."""


@router.get("/polysemantic")
def polysemantic(context: Context, state: State) -> Polysemantic:
    """Return the most polysemantic components whose examples are really in two groups."""
    db = context.db
    values = all_scores(context, state).frame["polysemanticity"].to_numpy(float)
    real, others = state.jobs.result(
        f"polysemantic {context.number}",
        "Testing which components have two senses",
        lambda: most_polysemantic(db, values, TWO_SENSES),
    )
    found = [
        TwoSenses(row=r, component=str(db.component(r)), polysemanticity=float(values[r]))
        for r in real
    ]
    return Polysemantic(
        components=found, tested=len(real) + len(others), examples=db.manifest.recipe.examples
    )


class VectorStart(BaseModel):
    """The first numbers of a component's concept vector."""

    dimensions: int
    values: list[float]


class PredictedClasses(BaseModel):
    """Classes that the model predicts; empty if images have true classes."""

    images: int
    """Number of images that it was run on."""
    of: int
    """Number of images in total."""
    classes: list[ClassCount]
    """Those with most images first."""


@router.get("/classes/{c}/strip.webp", response_class=Response, responses=WEBP)
async def class_images(
    context: Context,
    c: Annotated[int, Path(ge=0, le=MAX_INT)],
    count: Annotated[int, Query(ge=1, le=12)] = 3,
    v: Version = "",
    cached: CachedTag = None,
) -> Response:
    """Return images of a class side by side, each a square of 96 pixels.

    They are evenly spaced among the images of the class or, where images have no true class, among
    those that the model takes for it (``predicted-classes``).
    With ``v``, a prefix of the database's fingerprint, a browser may cache it permanently.
    """

    def draw() -> bytes:
        return image_strip(context.db, _samples(context.db, c, count))

    return await picture_response(context, f"class {c} {count}", v, cached, draw)


def _samples(db: ConceptDatabase, target: int, count: int) -> list[int]:
    kept = None if len(class_table(db)) else kept_predictions(db)
    if kept is None or target not in set(kept["predicted"]):
        return class_samples(db, target, count).tolist()
    return predicted_samples(kept, target, count).tolist()


@router.get("/predicted-classes")
def predicted_classes(context: Context, state: State) -> PredictedClasses:
    """Return the classes that the model predicts, where no image has a true class; runs it once."""
    db = context.db
    if len(class_table(db)):
        return PredictedClasses(images=0, of=db.manifest.samples, classes=[])
    found = predictions(context, state)
    return PredictedClasses(
        images=len(found),
        of=db.manifest.samples,
        classes=records(ClassCount, predicted_table(db, found)),
    )


@router.get(COMPONENT.removeprefix("/models/{m}") + "/vector")
def component_vector(
    context: Context, row: Row, count: Annotated[int, Query(ge=1, le=4096)] = 48
) -> VectorStart:
    """Return the first numbers of a component's concept vector; zeros without examples."""
    vector = context.db.concept_vectors([row])[0]
    return VectorStart(dimensions=len(vector), values=[float(value) for value in vector[:count]])
