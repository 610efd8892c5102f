"""Pillow pictures: to and from WebP, and text that is cut to the room that it has."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageFont


def decoded(data: bytes) -> Image.Image:
    """Return a WebP or PNG as RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def encoded(picture: Image.Image, quality: int = 80, method: int = 4) -> bytes:
    """Return a picture as WebP; ``method`` goes from 0, fast, to 6, small."""
    held = io.BytesIO()
    picture.save(held, "WEBP", quality=quality, method=method)
    return held.getvalue()


@lru_cache
def font(size: int | float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font in a size in pixels."""
    return ImageFont.load_default(size)


def shortened(text: str, size: int | float, room: int | float) -> str:
    """Cut a text so that it is at most ``room`` pixels wide in a size."""
    if font(size).getlength(text) <= room:
        return text
    while text and font(size).getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
