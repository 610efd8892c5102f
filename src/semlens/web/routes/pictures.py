"""Routes of images: strips of examples for lists, single examples for the card, and of classes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from fastapi import APIRouter, Header, Query, Response
from jaxtyping import Int64
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from semlens.draw.example_picture import View, crop_picture, heatmap_picture, no_example
from semlens.draw.example_sheet import example_strip
from semlens.errors import DataError, ImageError, LayerError, ModelError, RelevanceError, StaleError
from semlens.lenses.classes import class_name, class_samples
from semlens.lenses.describe.example_heatmaps import ExampleHeatmaps, example_heatmaps
from semlens.lenses.describe.overview import class_table, predict_classes, predicted_samples
from semlens.types import Component
from semlens.web.app_state import COMPONENT, AppState, Context, ModelContext, Row, State
from semlens.web.errors import HttpError
from semlens.web.responses import tensors

router = APIRouter(tags=["pictures"])

MIN_VERSION = 8
"""Digits of the fingerprint that ``v`` must have for an image to be cached permanently."""
MAX_STRIPS = 64
"""Components whose strips are sent at once."""
WEBP: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}
"""Responses of a route that returns a picture."""

Version = Annotated[str, Query(max_length=64)]
CachedTag = Annotated[str | None, Header(alias="If-None-Match")]


@router.get(f"{COMPONENT}/strip.webp", response_class=Response, responses=WEBP)
async def component_strip(
    context: Context,
    row: Row,
    count: Annotated[int, Query(ge=1, le=30)] = 4,
    v: Version = "",
    cached: CachedTag = None,
) -> Response:
    """Return the strongest examples side by side, each a square of 96 pixels.

    With ``v``, a prefix of the database's fingerprint, a browser may cache it permanently.
    """
    return await picture_response(
        context,
        f"strip {row} {count}",
        v,
        cached,
        lambda: example_strip(context.db, row, count),
    )


@router.get("/models/{m}/strips", response_class=Response)
async def component_strips(
    context: Context,
    of: Annotated[list[str], Query(min_length=1, max_length=MAX_STRIPS)],
    count: Annotated[int, Query(ge=1, le=30)] = 4,
    v: Version = "",
    cached: CachedTag = None,
) -> Response:
    """Return the strips of several components, one request for a list.

    Each is a WebP as uint8[bytes], by the component's name, as safetensors. Components without
    examples, or whose images are missing, are left out: their strips alone say why.
    """
    rows = {name: context.db.row(Component.parse(name)) for name in of}
    headers = _headers(context, f"strips {count} {list(rows.values())}", v)
    if cached is not None and headers["ETag"] in cached:
        return Response(status_code=304, headers=headers)

    def draw(row: int) -> np.ndarray | None:
        with suppress(DataError, ImageError, LayerError, StaleError):
            return np.frombuffer(example_strip(context.db, row, count), np.uint8)
        return None

    loop = asyncio.get_running_loop()
    jobs = (loop.run_in_executor(_drawing_threads(), draw, row) for row in rows.values())
    drawn = zip(rows, await asyncio.gather(*jobs), strict=True)
    response = tensors({name: picture for name, picture in drawn if picture is not None})
    response.headers.update(headers)
    return response


@router.get(COMPONENT + "/crops/{rank}.webp", response_class=Response, responses=WEBP)
async def component_crop(
    context: Context,
    row: Row,
    rank: int,
    view: View = "crop",
    v: Version = "",
    cached: CachedTag = None,
) -> Response:
    """Return an example: its crop, or the whole image with the box of the crop."""
    return await picture_response(
        context,
        f"crop {row} {rank} {view}",
        v,
        cached,
        lambda: crop_picture(context.db, row, rank, view),
    )


class Heatmaps(BaseModel):
    """Where heatmaps of a component's examples come from."""

    source: Literal["model", "mask"]
    """Computed by the model, or the masks that the database stores."""
    reason: str | None
    """Why the model could not compute them."""


@router.get(f"{COMPONENT}/heatmaps")
def component_heatmaps(context: Context, state: State, row: Row) -> Heatmaps:
    """Compute where the component responds in the whole images of its examples, once."""
    return _heatmaps(context, state, row)[0]


def _heatmaps(
    context: ModelContext, state: AppState, row: int
) -> tuple[Heatmaps, ExampleHeatmaps | None]:
    def compute() -> tuple[Heatmaps, ExampleHeatmaps | None]:
        try:
            with context.run_model("A heatmap"):
                return Heatmaps(source="model", reason=None), example_heatmaps(context.db, row)
        except (DataError, ImageError, ModelError, RelevanceError, StaleError) as error:
            return Heatmaps(source="mask", reason=error.value), None

    name = context.db.component(row)
    return state.jobs.result(
        f"heatmaps {context.number} {row}", f"Computing the heatmaps of {name}", compute
    )


@router.get(COMPONENT + "/heatmaps/{rank}.webp", response_class=Response, responses=WEBP)
async def component_heatmap(
    context: Context,
    state: State,
    row: Row,
    rank: int,
    v: Version = "",
    cached: CachedTag = None,
) -> Response:
    """Return the whole image of an example with the heatmap over it, and the box of its crop."""
    source, heatmaps = await run_in_threadpool(_heatmaps, context, state, row)

    def draw() -> bytes:
        examples = context.db.examples_of(row)
        if not 0 <= rank < len(examples):
            raise no_example(context.db, row, rank, len(examples))
        heat = None if heatmaps is None else heatmaps.heat[rank]
        return heatmap_picture(context.db, examples[rank], heat)

    return await picture_response(context, f"heatmap {row} {rank} {source.source}", v, cached, draw)


@cache
def _drawing_threads() -> ThreadPoolExecutor:
    """Return a pool with a thread per core: more are not faster, and each needs memory."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "drawing")


async def picture_response(
    context: ModelContext, name: str, version: str, cached: str | None, draw: Callable[[], bytes]
) -> Response:
    """Return a picture as WebP that a browser may cache; ``name`` says which one it is.

    Raises
    ------
    HttpError
        404, if an image that is needed is missing or has changed.
    """
    headers = _headers(context, name, version)
    if cached is not None and headers["ETag"] in cached:
        return Response(status_code=304, headers=headers)
    try:
        image = await asyncio.get_running_loop().run_in_executor(_drawing_threads(), draw)
        return Response(image, media_type="image/webp", headers=headers)
    except (DataError, ImageError, StaleError) as error:
        raise HttpError(404, error.value, error.expected, error.remedy) from error


def _headers(context: ModelContext, name: str, version: str) -> dict[str, str]:
    """Return the headers by which a browser keeps pictures: for good, if it names the build."""
    fingerprint = context.db.fingerprint
    permanent = len(version) >= MIN_VERSION and fingerprint.startswith(version)
    return {
        "ETag": '"' + hashlib.sha256(f"{fingerprint} {name}".encode()).hexdigest()[:32] + '"',
        "Content-Encoding": "identity",  # already compressed
        "Cache-Control": f"private, {'max-age=31536000, immutable' if permanent else 'no-cache'}",
    }


def predictions(context: ModelContext, state: AppState) -> pd.DataFrame:
    """Return the predicted class of each image, see :func:`predict_classes`.

    Raises
    ------
    JobPending
        While the model runs.
    """

    def compute() -> pd.DataFrame:
        with context.run_model("Predicting the classes"):
            return predict_classes(context.db)

    key = f"predicted-classes/{context.number}"
    return state.jobs.result(key, "Predicting the classes of the images", compute)


def images_of_class(
    context: ModelContext, state: AppState, target: int, count: int
) -> Int64[np.ndarray, " n"]:
    """Return at most ``count`` images of a class, evenly spaced.

    Where no image has a true class, these are images that the model takes for it.

    Raises
    ------
    DataError
        If there are none.
    JobPending
        While the classes of the images are being predicted.
    """
    if not len(class_table(context.db)):
        found = predicted_samples(predictions(context, state), target, count)
        if not len(found):
            raise DataError(
                f"The model takes no image for '{class_name(context.db, target)}'.",
                "Expected a class that it predicts for some image.",
                "Choose another class.",
            )
        return found
    return class_samples(context.db, target, count)
