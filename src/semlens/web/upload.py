"""Images that a page sends: the raw bytes as the body of the request."""

from __future__ import annotations

import io
import threading
from typing import Annotated, Any

from fastapi import Depends, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from semlens.data.images import upright_rgb
from semlens.errors import ImageError
from semlens.web.errors import HttpError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What is accepted, by content; whatever the request says of its type does not matter."""
PIXELS = 50_000_000
_REMEDY = "Convert or scale it down."
# a picture of the largest size takes some 500 MB while alpha is put over white
_decoding = threading.Semaphore(2)

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""For ``openapi_extra`` of a route that takes a picture."""


def decode_upload(content: bytes) -> Image.Image:
    """Decode an uploaded image to upright RGB; of an animation, the first frame.

    Raises
    ------
    HttpError
        415, if it is no raster image of a known format, or has too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)  # reads the head only
    except Image.DecompressionBombError as error:
        raise _too_large(str(error)) from error
    except Exception as error:  # what Pillow raises for damaged bytes is an open list
        raise HttpError(
            415,
            "The upload is not an image that can be read.",
            f"Expected {', '.join(FORMATS)}.",
            _REMEDY,
        ) from error
    with image:
        if image.width * image.height > PIXELS:
            raise _too_large(f"{image.width} x {image.height} pixels")
        try:
            with _decoding:
                return upright_rgb(image, "the upload")
        except ImageError as error:
            raise HttpError(415, error.value, error.expected, _REMEDY) from error


def _too_large(reason: str) -> HttpError:
    return HttpError(
        415,
        f"The upload is too large ({reason}).",
        f"Expected at most {PIXELS // 1_000_000} million pixels.",
        _REMEDY,
    )


async def _uploaded(request: Request) -> Image.Image:
    return await run_in_threadpool(decode_upload, await request.body())


Upload = Annotated[Image.Image, Depends(_uploaded)]
"""The picture in the body of the request: ``def search(model: Model, image: Upload)``."""
