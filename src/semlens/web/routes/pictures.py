"""Pictures of components: strips for lists, single examples for the card."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response

from semlens.draw.example_sheet import View, crop_picture, strip
from semlens.errors import DataError, ImageError, StaleError
from semlens.web.app_state import COMPONENT, Model, ModelContext, Row
from semlens.web.errors import HttpError

router = APIRouter(tags=["pictures"])

SHORTEST = 8
"""Digits of the database's fingerprint by which an address names it for good."""
_WEBP: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}

Version = Annotated[str, Query(max_length=64)]
Known = Annotated[str | None, Header(alias="If-None-Match")]


@router.get(f"{COMPONENT}/strip.webp", response_class=Response, responses=_WEBP)
async def component_strip(
    served: Model,
    row: Row,
    count: Annotated[int, Query(ge=1, le=30)] = 4,
    v: Version = "",
    known: Known = None,
) -> Response:
    """Return the strongest examples side by side, each a square of 96 pixels.

    With ``v``, the database's fingerprint or its beginning, a browser may keep it for good.
    """
    return await _picture(
        served,
        f"strip {row} {count}",
        v,
        known,
        lambda: strip(served.db, row, count),
    )


@router.get(COMPONENT + "/crops/{place}.webp", response_class=Response, responses=_WEBP)
async def component_crop(
    served: Model,
    row: Row,
    place: int,
    view: View = "crop",
    v: Version = "",
    known: Known = None,
) -> Response:
    """Return one example: its crop, the crop masked, or the whole image with the crop's box."""
    return await _picture(
        served,
        f"crop {row} {place} {view}",
        v,
        known,
        lambda: crop_picture(served.db, row, place, view),
    )


@cache
def _drawing() -> ThreadPoolExecutor:
    """Return a thread per core: more draw no faster, and each keeps some memory for good."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "drawing")


async def _picture(
    served: ModelContext, what: str, version: str, known: str | None, make: Callable[[], bytes]
) -> Response:
    fingerprint = served.db.fingerprint
    tag = '"' + hashlib.sha256(f"{fingerprint} {what}".encode()).hexdigest()[:32] + '"'
    lasting = len(version) >= SHORTEST and fingerprint.startswith(version)
    headers = {
        "ETag": tag,
        "Content-Encoding": "identity",  # packed already: gzip would only take time
        "Cache-Control": f"private, {'max-age=31536000, immutable' if lasting else 'no-cache'}",
    }
    if known is not None and tag in known:
        return Response(status_code=304, headers=headers)
    try:
        picture = await asyncio.get_running_loop().run_in_executor(_drawing(), make)
        return Response(picture, media_type="image/webp", headers=headers)
    except (DataError, ImageError, StaleError) as error:
        raise HttpError(404, error.value, error.expected, error.remedy) from error
