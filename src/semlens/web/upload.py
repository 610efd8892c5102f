"""Uploaded images: the raw bytes in the body of a request."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Depends, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from semlens.data.images import upright_rgb
from semlens.errors import ImageError
from semlens.run.executors.executor import return_freed_memory
from semlens.web.errors import HttpError
from semlens.web.request_body import Budget

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""Accepted formats, detected from the content; the content type of the request is ignored."""
PIXELS = 50_000_000
ALL_PIXELS = 200_000_000
"""Of the decoded uploads of all requests that are being answered, in three bytes each."""
_REMEDY = "Convert the image or scale it down."
LONGEST = 2048
"""Longest side of a decoded upload: several times what models see. Otherwise an explanation that
is remembered holds up to 150 MB, and to measure where its pixels lie takes a minute."""
# an image of the maximum size needs about 500 MB while transparency is put over white
_decoding = threading.Lock()
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

    A larger image than :data:`LONGEST` is scaled down while it is decoded.

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
            if max(image.size) <= LONGEST:
                return upright_rgb(image, "the upload")
            with _decoding:  # one large image at a time
                try:
                    return _scaled(image)
                finally:
                    image.close()
                    return_freed_memory()
        except ImageError as error:
            raise HttpError(415, error.value, error.expected, _REMEDY) from error


def _scaled(image: Image.Image) -> Image.Image:
    """Return an image with :data:`LONGEST` pixels on its longest side, upright and in RGB."""
    size = (LONGEST, LONGEST)
    image.draft(None, size)  # a JPEG is decoded at a half, a quarter or an eighth of its size
    if image.mode in ("L", "RGB", "RGBA", "CMYK") and "transparency" not in image.info:
        with suppress(OSError, SyntaxError, ValueError):  # damaged: upright_rgb says so
            image.thumbnail(size)  # before others are made of it
    picture = upright_rgb(image, "the upload")
    picture.thumbnail(size)
    return picture


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


MAX_IMAGES = 200
MAX_BYTES = 100_000_000


class UploadedImages:
    """The latest uploads, so that a page sends an image once and its address survives a reload.

    An id is part of the digest of the content: the same image has the same id, and nobody can
    guess the id of an image they do not have. Thread-safe.
    """

    def __init__(self, max_images: int = MAX_IMAGES, max_bytes: int = MAX_BYTES) -> None:
        self._max_images, self._max_bytes = max_images, max_bytes
        self._lock = threading.Lock()
        self._contents: OrderedDict[str, bytes] = OrderedDict()

    def add(self, content: bytes) -> str:
        """Remember an upload and return its id."""
        image_id = f"u{hashlib.sha256(content).hexdigest()[:24]}"  # never the number of a sample
        with self._lock:
            self._contents[image_id] = content
            self._contents.move_to_end(image_id)
            while len(self._contents) > 1 and self._is_full():
                self._contents.popitem(last=False)
        return image_id

    def get(self, image_id: str) -> bytes:
        """Return the content of an upload.

        Raises
        ------
        HttpError
            404, if it is unknown or was dropped.
        """
        with self._lock:
            if image_id in self._contents:
                self._contents.move_to_end(image_id)
                return self._contents[image_id]
        raise HttpError(
            404,
            f"The server does not have the image '{image_id[:40]}'.",
            f"It remembers the last {self._max_images} uploads until it stops.",
            "Choose the image again.",
        )

    def _is_full(self) -> bool:
        size = sum(map(len, self._contents.values()))
        return len(self._contents) > self._max_images or size > self._max_bytes
