"""What data are to semlens: upright RGB images with stable ids, content hashes, class names."""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

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
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"'{name}' is too large ({error}).", "Expected at most 178 million pixels.", _REMEDY
        ) from error
    except Exception as error:  # what Pillow raises for damaged bytes is an open list
        raise _undecodable(name, error) from error


def upright_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Apply EXIF orientation, put alpha over white, and bring every mode to 8-bit RGB.

    16-bit grey is scaled by 1/257, so that white stays white.

    Raises
    ------
    ImageError
        If the pixels have no fixed mapping to 8 bits, or a lazily opened file is damaged.
    """
    try:
        image = _transposed(image)
        image.load()
    except Exception as error:  # what Pillow raises for damaged bytes is an open list
        raise _undecodable(name, error) from error
    if image.mode == "F":
        raise _whiteless(name, "floating-point")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise _whiteless(name, "32-bit")
        image = Image.fromarray(np.rint(values / 257.0).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    try:
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except ValueError as error:  # a mode such as LAB
        raise _undecodable(name, error) from error


def _transposed(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block does not make an image unreadable."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the EXIF parser raises many kinds; the pixels are checked by load()
        return image


def _undecodable(name: str, error: Exception) -> ImageError:
    # without Pillow's "<_io.BytesIO object at 0x...>": the reason goes into the database
    reason = re.sub(r"\s*<[^>]*>", "", str(error)) or type(error).__name__
    return ImageError(
        f"'{name}' cannot be decoded ({reason}).", "Expected a whole image file.", _REMEDY
    )


def _whiteless(name: str, kind: str) -> ImageError:
    return ImageError(
        f"'{name}' holds {kind} pixels.",
        "Expected 8-bit or 16-bit integers, whose white is known.",
        _REMEDY,
    )


def content_digest(content: bytes | Image.Image) -> str:
    """SHA-256 of encoded bytes, or of a decoded image's mode, size and raw pixels."""
    if isinstance(content, Image.Image):
        head = f"{content.mode}:{content.width}x{content.height}:".encode()
        content = head + content.tobytes()
    return hashlib.sha256(content).hexdigest()


class Images(ABC):
    """Images in a fixed order; a sample's number is its place in it."""

    spec: str
    """How to load the same data again, or a description when it came from Python."""
    ids: Sequence[str]
    """A stable id per sample; for folders the sorted relative POSIX paths."""
    targets: Sequence[str] | None = None
    """The class name of each sample, or None when the data has no classes."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ids)

    @abstractmethod
    def content(self, sample: int) -> bytes | Image.Image:
        """Return the sample's encoded bytes, or its upright RGB image where there are none.

        Raises
        ------
        ImageError
            If it cannot be read.
        """

    def read(self, sample: int) -> Image.Image:
        """Return the sample as upright 8-bit RGB at its original size.

        Raises
        ------
        ImageError
            If it cannot be read or decoded.
        """
        content = self.content(sample)
        return decode(content, self.ids[sample]) if isinstance(content, bytes) else content

    def digest(self, sample: int) -> str:
        """Return the SHA-256 of the sample's content."""
        return content_digest(self.content(sample))


def numbered(count: int) -> list[str]:
    """Return ids for samples that have no names: their numbers, of equal width."""
    width = len(str(count - 1))
    return [f"{i:0{width}d}" for i in range(count)]


def read_file(path: Path, name: str | None = None) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    ImageError
        If it cannot be read; the text calls it ``name``.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"'{name or path}' cannot be read ({error.strerror or error}).",
            "Expected a readable file.",
            "Check its permissions and whether it still exists.",
        ) from error
