"""Decode and encode images, and fit text to a width in pixels."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageFont


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file (WebP, PNG, ...) as RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def encode_webp(picture: Image.Image, quality: int = 80, method: int = 4) -> bytes:
    """Encode an image as WebP; ``method`` ranges from 0 (fast) to 6 (small)."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=method)
    return buffer.getvalue()


@lru_cache
def font(size: int | float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's default font in a size in pixels."""
    return ImageFont.load_default(size)


def fit_text(text: str, size: int | float, room: int | float) -> str:
    """Shorten a text so that it is at most ``room`` pixels wide."""
    if font(size).getlength(text) <= room:
        return text
    while text and font(size).getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
