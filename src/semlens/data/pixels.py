"""One way from encoded bytes, arrays and odd Pillow modes to upright 8-bit RGB."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from semlens.errors import ImageError

_REMEDY = "Convert or remove the file; a build skips it and lists it."


def decode(data: bytes, name: str) -> Image.Image:
    """Decode an encoded image to upright RGB.

    Raises
    ------
    ImageError
        If the bytes are no image, are cut short, or are of a kind that has no fixed
        mapping to 8 bits (floating point).
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return upright_rgb(image, name)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(
            f"'{name}' cannot be decoded ({error}).", "Expected a whole image file.", _REMEDY
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"'{name}' is too large ({error}).", "Expected at most 178 million pixels.", _REMEDY
        ) from error


def upright_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Apply EXIF orientation, put alpha over white, and bring every mode to 8-bit RGB.

    16-bit grey is scaled by 1/257, so that white stays white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F",):
        raise ImageError(
            f"'{name}' holds floating-point pixels.",
            "Expected 8-bit or 16-bit integers, whose white is known.",
            _REMEDY,
        )
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def pixels_digest(image: Image.Image) -> str:
    """SHA-256 of an already decoded image: mode, size and raw pixels."""
    head = f"{image.mode}:{image.width}x{image.height}:".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()
