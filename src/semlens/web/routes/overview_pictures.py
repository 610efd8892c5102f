"""Routes of what the overview shows: images of the classes, and the vector of a component."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
from semlens.draw.example_sheet import image_strip
from semlens.lenses.classes import class_samples
from semlens.lenses.describe.overview import (
    class_table,
    kept_predictions,
    predicted_samples,
    predicted_table,
)
from semlens.web.app_state import COMPONENT, MAX_INT, Context, Row, State, records
from semlens.web.class_images import predictions
from semlens.web.routes.classes import ClassCount
from semlens.web.routes.pictures import WEBP, CachedTag, Version, picture_response

router = APIRouter(tags=["overview"])


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


@router.get("/models/{m}/classes/{c}/strip.webp", response_class=Response, responses=WEBP)
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


@router.get("/models/{m}/predicted-classes")
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


@router.get(f"{COMPONENT}/vector")
def component_vector(
    context: Context, row: Row, count: Annotated[int, Query(ge=1, le=4096)] = 48
) -> VectorStart:
    """Return the first numbers of a component's concept vector; zeros without examples."""
    vector = context.db.concept_vectors([row])[0]
    return VectorStart(dimensions=len(vector), values=[float(value) for value in vector[:count]])
