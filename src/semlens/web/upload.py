"""Uploaded images: the raw bytes in the body of a request."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from semlens.data.images import upright_rgb
from semlens.errors import ImageError
from semlens.web.budget import Budget
from semlens.web.errors import HttpError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""Accepted formats, detected from the content; the content type of the request is ignored."""
PIXELS = 50_000_000
ALL_PIXELS = 200_000_000
"""Of the decoded uploads of all requests that are being answered, in three bytes each."""
_REMEDY = "Convert the image or scale it down."
# an image of the maximum size needs about 500 MB while transparency is put over white
_decoding = threading.Semaphore(2)
_pixels = Budget(ALL_PIXELS)

UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""``openapi_extra`` of a route that takes an image."""


def decode_upload(content: bytes) -> Image.Image:
    """Decode an uploaded image to upright RGB; of an animation, only the first frame.

    Raises
    ------
    HttpError
        415, if it is not an image in an accepted format, or has too many pixels.
    """
    return _decoded(_opened(content))


def _opened(content: bytes) -> Image.Image:
    """Read the header of an upload."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)  # reads the header only
    except Image.DecompressionBombError as error:
        raise _too_large(str(error)) from error
    except Exception as error:  # Pillow may raise anything for damaged files
        raise HttpError(
            415,
            "The upload is not a readable image.",
            f"Expected {', '.join(FORMATS)}.",
            _REMEDY,
        ) from error
    if image.width * image.height > PIXELS:
        raise _too_large(f"{image.width} x {image.height} pixels")
    return image


def _decoded(image: Image.Image) -> Image.Image:
    with image:
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


async def _content(request: Request) -> bytes:
    return await request.body()


async def _uploaded(request: Request) -> AsyncIterator[Image.Image]:
    image = await run_in_threadpool(_opened, await request.body())
    with _pixels.share() as share:
        share.take(image.width * image.height)
        yield await run_in_threadpool(_decoded, image)


Upload = Annotated[Image.Image, Depends(_uploaded)]
"""Image in the body of a request: ``def search(context: Context, image: Upload)``."""
UploadContent = Annotated[bytes, Depends(_content)]
"""The body of a request, as it was sent."""
