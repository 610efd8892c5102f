"""Routes of images: strips of examples for lists, and single examples for the card."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from semlens.draw.example_sheet import View, crop_picture, example_strip
from semlens.errors import DataError, ImageError, StaleError
from semlens.web.app_state import COMPONENT, Context, ModelContext, Row
from semlens.web.errors import HttpError

router = APIRouter(tags=["pictures"])

MIN_VERSION = 8
"""Digits of the fingerprint that ``v`` must have for an image to be cached permanently."""
_WEBP: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}

Version = Annotated[str, Query(max_length=64)]
CachedTag = Annotated[str | None, Header(alias="If-None-Match")]


@router.get(f"{COMPONENT}/strip.webp", response_class=Response, responses=_WEBP)
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
    return await _picture(
        context,
        f"strip {row} {count}",
        v,
        cached,
        lambda: example_strip(context.db, row, count),
    )


@router.get(COMPONENT + "/crops/{rank}.webp", response_class=Response, responses=_WEBP)
async def component_crop(
    context: Context,
    row: Row,
    rank: int,
    view: View = "crop",
    v: Version = "",
    cached: CachedTag = None,
) -> Response:
    """Return an example: its crop, its masked crop, or the whole image with the box of the crop."""
    return await _picture(
        context,
        f"crop {row} {rank} {view}",
        v,
        cached,
        lambda: crop_picture(context.db, row, rank, view),
    )


@cache
def _drawing_threads() -> ThreadPoolExecutor:
    """Return a pool with a thread per core: more are not faster, and each needs memory."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "drawing")


async def _picture(
    context: ModelContext, name: str, version: str, cached: str | None, draw: Callable[[], bytes]
) -> Response:
    fingerprint = context.db.fingerprint
    tag = '"' + hashlib.sha256(f"{fingerprint} {name}".encode()).hexdigest()[:32] + '"'
    permanent = len(version) >= MIN_VERSION and fingerprint.startswith(version)
    headers = {
        "ETag": tag,
        "Content-Encoding": "identity",  # already compressed
        "Cache-Control": f"private, {'max-age=31536000, immutable' if permanent else 'no-cache'}",
    }
    if cached is not None and tag in cached:
        return Response(status_code=304, headers=headers)
    try:
        image = await asyncio.get_running_loop().run_in_executor(_drawing_threads(), draw)
        return Response(image, media_type="image/webp", headers=headers)
    except (DataError, ImageError, StaleError) as error:
        raise HttpError(404, error.value, error.expected, error.remedy) from error
