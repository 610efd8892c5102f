"""Routes that explain one prediction: of an image of the database, or of an uploaded one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query, Response
from PIL import Image

from semlens.draw.encode_images import encode_webp
from semlens.errors import SemlensError
from semlens.lenses.arguments import find_any_components
from semlens.lenses.classes import class_name, find_class, true_classes
from semlens.lenses.contrast.contrast import Contrast
from semlens.lenses.database_targets import class_target
from semlens.lenses.explain import PredictionWithout, explain, explain_without
from semlens.recipe import fingerprint
from semlens.web.app_state import AppState, Context, LayerNames, ModelContext, OptionalClass, State
from semlens.web.errors import error_model, not_found
from semlens.web.responses import tensors
from semlens.web.routes.explain_responses import (
    ClassScore,
    DrawnExplanation,
    ExampleImage,
    ExampleImages,
    ExplanationResponse,
    UploadedImage,
    WithoutRequest,
    WithoutResponse,
)
from semlens.web.routes.image_experiments import contrast_key
from semlens.web.routes.pictures import WEBP, CachedTag, Version, picture_response
from semlens.web.upload import UPLOAD, Upload, UploadContent, decode_upload

router = APIRouter(prefix="/models/{m}/explanations", tags=["explain"])

MAX_EXAMPLES, MAX_WRONG = 16, 6
"""Example images in a response, and among them images with a wrong prediction."""
MAX_SIDE = 1024
"""Longest side of the image on the page, in pixels."""
ComponentsPerLayer = Annotated[int, Query(ge=1, le=50)]
RemovedComponents = Annotated[list[str] | None, Query(max_length=1000)]


@dataclass(frozen=True)
class ImageSource:
    """An image of the database or an upload, by its id in the path."""

    image: str
    name: str
    sample: int | None
    true_class: str | None
    read: Callable[[], Image.Image]


async def _source(context: Context, state: State, image: str) -> ImageSource:
    if not image.isdecimal():
        content = state.uploads.get(image)
        return ImageSource(image, "your image", None, None, partial(decode_upload, content))
    if len(image) > 10 or int(image) >= context.db.manifest.samples:
        raise not_found(
            f"Sample {image[:20]} is not in the database.",
            f"It has the samples 0 to {context.db.manifest.samples - 1}.",
        )
    sample = context.db.sample(int(image))
    read = partial(context.db.original, sample.number)
    return ImageSource(image, sample.path, sample.number, sample.target, read)


Source = Annotated[ImageSource, Depends(_source)]


def _explanation(
    context: Context,
    state: State,
    source: Source,
    target: OptionalClass = None,
    layers: LayerNames = None,
    k: ComponentsPerLayer = 8,
    without: RemovedComponents = None,
) -> DrawnExplanation:
    """Explain a class, by default the prediction, by the ``k`` strongest components per layer.

    The components of ``without`` are set to zero first.
    """
    db = context.db
    names = db.layer_names(layers)
    removed = find_any_components(db, without or ())
    # fails early, before the model is loaded
    asked = None if target is None else class_target(db, find_class(db, target))

    def compute() -> DrawnExplanation:
        picture = source.read()
        with context.run_model("An explanation"):
            found = explain(
                db, picture, asked, top=k, layers=names, concepts=None, name=source.name,
                without=removed,
            )  # fmt: skip
        return DrawnExplanation.of(found)

    key = fingerprint(source.image, target, names, k, sorted(map(str, removed)))
    about = "the prediction" if target is None else f"'{class_name(db, target)}'"
    about += f" without {len(removed)} components" if removed else ""
    return state.jobs.result(
        f"explanation/{context.number}/{key}", f"Explaining {about}", compute, large=True
    )


Drawn = Annotated[DrawnExplanation, Depends(_explanation)]


@router.get("")
def example_images(context: Context, state: State) -> ExampleImages:
    """Return images to begin with: one of each class, and images with a wrong prediction."""
    classes = state.jobs.result(
        f"true-classes/{context.number}",
        "Reading the classes of the images",
        lambda: true_classes(context.db),
        short=True,
    )
    wrong = _wrong_samples(context, state, np.unique(classes[~np.isnan(classes)]))
    shown = [*wrong, *_one_per_class(classes, MAX_EXAMPLES - len(wrong))]
    unavailable = None
    try:
        if shown:
            context.db.original(shown[0])
    except SemlensError as error:
        unavailable = error_model(error)
    return ExampleImages(
        images=[_example(context, sample, sample in wrong) for sample in shown],
        unavailable=unavailable,
    )


def _one_per_class(classes: np.ndarray, at_most: int) -> list[int]:
    """Return the first sample of each class, or of evenly spaced ones; without classes, any."""
    known, first = np.unique(classes, return_index=True)
    samples = first[~np.isnan(known)]
    if len(samples) == 0:
        samples = np.arange(len(classes))
    spaced = np.linspace(0, len(samples) - 1, min(at_most, len(samples))).round().astype(int)
    return samples[spaced].tolist()


def _wrong_samples(context: ModelContext, state: AppState, classes: np.ndarray) -> list[int]:
    """Return images with a wrong prediction, from the contrasts that were already computed."""
    contrasts = [state.jobs.finished(contrast_key(context, int(c))) for c in classes]
    errors = [contrast.a.samples for contrast in contrasts if isinstance(contrast, Contrast)]
    each = -(-MAX_WRONG // max(len(errors), 1))
    return [sample for samples in errors for sample in samples[:each]][:MAX_WRONG]


def _example(context: ModelContext, number: int, wrong: bool) -> ExampleImage:
    sample = context.db.sample(number)
    return ExampleImage(sample=number, path=sample.path, name=sample.target, wrong=wrong)


@router.post("/image", openapi_extra=UPLOAD)
def upload_image(
    context: Context, state: State, image: Upload, content: UploadContent
) -> UploadedImage:
    """Remember the image in the body of the request, to be explained."""
    return UploadedImage(image=state.uploads.add(content))


@router.get("/{image}/image.webp", response_class=Response, responses=WEBP)
async def explained_image(
    context: Context,
    source: Source,
    side: Annotated[int, Query(ge=32, le=MAX_SIDE)] = MAX_SIDE,
    v: Version = "",
    cached: CachedTag = None,
) -> Response:
    """Return the image, scaled down to ``side`` pixels if it is larger."""

    def draw() -> bytes:
        picture = source.read().copy()
        picture.thumbnail((side, side))
        return encode_webp(picture, 88, 0)

    return await picture_response(context, f"explained {source.image} {side}", v, cached, draw)


@router.get("/{image}")
def explain_image(source: Source, drawn: Drawn) -> ExplanationResponse:
    """Explain a class, by default the prediction, by the ``k`` strongest components per layer."""
    found = drawn.explanation
    return ExplanationResponse(
        image=source.image,
        name=source.name,
        sample=source.sample,
        true_class=source.true_class,
        width=found.image.width,
        height=found.image.height,
        target=ClassScore(**vars(found.target)),
        scores=[ClassScore(**vars(score)) for score in found.scores],
        rules=found.rules,
        layers=drawn.layers(),
    )


@router.get("/{image}/heatmaps", response_class=Response)
def explanation_heatmaps(drawn: Drawn) -> Response:
    """Return i8[1 + n h w] as safetensors: where the class, and each component, is relevant.

    The components are those of the explanation with the same settings, in its order. Values are
    from -127 (strongest evidence against the class) to 127 (for it), each map by itself.
    """
    shape = ",".join(map(str, drawn.heatmaps.shape))
    return tensors({"heatmaps": drawn.heatmaps}, {"shape": shape})


@router.post("/{image}/without")
def predict_without(
    context: Context, state: State, source: Source, request: WithoutRequest
) -> WithoutResponse:
    """Predict the image with and without some components; no weights are changed."""
    db = context.db
    db.rows_of(request.components)
    if request.target is not None:
        find_class(db, request.target)

    def compute() -> PredictionWithout:
        picture = source.read()
        with context.run_model("The prediction without components"):
            return explain_without(db, picture, request.components, request.target)

    key = fingerprint(source.image, request.model_dump(mode="json"), db.fingerprint)
    description = f"Running the model without {len(request.components)} components"
    result = state.jobs.result(f"without/{context.number}/{key}", description, compute)
    return WithoutResponse(
        components=[str(component) for component in result.components],
        predicted_before=result.predicted_before,
        predicted_after=result.predicted_after,
        changes=list(result.changes),
    )
