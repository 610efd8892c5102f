"""Base class of data, and several data sets as one.

Images are upright and RGB, with stable ids, content hashes and class names.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from semlens.data.array_picture import ArrayPicture
from semlens.data.class_mapping import UNLABELLED
from semlens.data.rendering import Rendering
from semlens.documents import parse_json
from semlens.errors import DataError, ImageError
from semlens.regular_files import is_folder, read_bytes, user_path

_START, _END = b"\xff\x4f\xff\x51", b"\xff\xd9"


def is_whole(data: bytes) -> bool:
    """Whether the code stream ends with its end marker (ISO/IEC 15444-1, A.4.4 and I.4)."""
    if data.startswith(_START):  # a bare code stream
        return data.endswith(_END)
    start = 0
    while start + 8 <= len(data):
        length, kind, head = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8], 8
        if length == 1:  # a longer length follows
            length, head = int.from_bytes(data[start + 8 : start + 16]), 16
        end = start + length if length else len(data)  # 0: up to the end of the file
        if kind == b"jp2c" or end > len(data) or length in range(1, head):
            return kind == b"jp2c" and end <= len(data) and data[:end].endswith(_END)
        start = end
    return False


_SIZE_IN_HEADER = ("JPEG", "PNG", "WEBP", "BMP")
_TURNED = (5, 6, 7, 8)
"""Values of the EXIF orientation that exchange width and height."""
_REMEDY = "Convert or remove the file; a build skips and lists it."


def decode(data: bytes, name: str) -> Image.Image:
    """Decode an encoded image to upright RGB.

    Raises
    ------
    ImageError
        If the bytes are not an image, are truncated, or hold pixels without a fixed mapping to
        8 bits (floating point).
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG2000" and not is_whole(data):
                raise ValueError("the file is truncated")
            return upright_rgb(image, name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"'{name}' is too large ({error}).", "Expected at most 178 million pixels.", _REMEDY
        ) from error
    except Exception as error:  # Pillow raises many types of errors for damaged bytes
        raise _decode_error(name, error) from error


def upright_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Apply the EXIF orientation, composite alpha over white, and convert to 8-bit RGB.

    Grey of up to 16 bits is scaled so that white is white; what a file calls transparent is white.

    Raises
    ------
    ImageError
        If the pixels have no fixed mapping to 8 bits, or a lazily opened file is damaged.
    """
    if isinstance(image, ArrayPicture):  # upright already, and its numbers must be kept
        return image
    tags = dict(getattr(image, "tag_v2", {}))  # of a TIFF; turning the image loses them
    try:
        image = _apply_orientation(image)
        image.load()
    except Exception as error:  # Pillow raises many types of errors for damaged bytes
        raise _decode_error(name, error) from error
    if image.mode == "F":
        raise _pixel_error(name, "floating-point")
    if image.mode.startswith("I"):
        image = _eight_bits(image, tags, name)
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        return _keyed(image, key)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    try:
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except ValueError as error:  # a mode such as LAB
        raise _decode_error(name, error) from error


_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339
"""Tags of a TIFF: bits per sample, what 0 means, and whether values have a sign."""


def _eight_bits(image: Image.Image, tags: Mapping[int, Any], name: str) -> Image.Image:
    """Scale grey of 9 to 16 bits to 8; Pillow leaves open what 0 and the largest value mean."""
    values = np.asarray(image).astype(np.float64)
    bits = int(np.ravel(tags.get(_BITS, 16))[0])
    signed = int(np.ravel(tags.get(_FORMAT, 1))[0]) == 2
    white = 2.0**bits - 1
    if bits > 16 or signed or values.min() < 0 or values.max() > white:
        raise _pixel_error(name, "signed" if signed and bits <= 16 else "32-bit")
    transparent = values == image.info.get("transparency")
    if tags.get(_PHOTOMETRIC) == 0:  # 0 is white, as in radiographs
        values = white - values
    grey = np.rint(values * (255 / white)).astype(np.uint8)
    return Image.fromarray(np.where(transparent, np.uint8(255), grey))


def _keyed(image: Image.Image, key: tuple[int, ...]) -> Image.Image:
    """Paint the transparent colour of a 16-bit RGB file white.

    Pillow keeps the upper 8 bits of pixels: a colour that differs below these is painted, too.
    """
    pixels = np.array(image)
    pixels[(pixels == np.array(key) >> 8).all(-1)] = 255
    return Image.fromarray(pixels)


def upright_size(content: bytes | Image.Image, name: str) -> tuple[int, int]:
    """Return width and height of an image as :func:`decode` returns it, in pixels.

    Formats whose header may tell another size than the pixels have are decoded.

    Raises
    ------
    ImageError
        If the bytes are not an image.
    """
    if isinstance(content, Image.Image):
        return content.size
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format in _SIZE_IN_HEADER:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
                return (image.height, image.width) if turned else image.size
    except Exception:  # Pillow raises many types of errors for damaged bytes
        return decode(content, name).size
    return decode(content, name).size


def _apply_orientation(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block does not make an image unreadable."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the EXIF parser raises many types of errors; load() checks the pixels
        return image


def _decode_error(name: str, error: Exception) -> ImageError:
    # drop Pillow's "<_io.BytesIO object at 0x...>": the reason is stored in the database
    reason = re.sub(r"\s*<[^>]*>", "", str(error)) or type(error).__name__
    return ImageError(
        f"Cannot decode '{name}' ({reason}).", "Expected an intact image file.", _REMEDY
    )


def _pixel_error(name: str, kind: str) -> ImageError:
    return ImageError(
        f"'{name}' holds {kind} pixels.",
        "Expected 8-bit or 16-bit integers, which have a defined white.",
        _REMEDY,
    )


def content_digest(content: bytes | Image.Image) -> str:
    """Return the SHA-256 of encoded bytes, or of the mode, size and pixels of a decoded image.

    Of an array, its numbers and its picture.
    """
    if isinstance(content, Image.Image):
        header = f"{content.mode}:{content.width}x{content.height}:".encode()
        numbers = content.whole if isinstance(content, ArrayPicture) else None
        content = header + content.tobytes()
        if numbers is not None:
            content += f":{numbers.dtype.str}:{numbers.shape}:".encode() + numbers.tobytes()
    return hashlib.sha256(content).hexdigest()


class Images(ABC):
    """Images in a fixed order; the number of a sample is its index."""

    spec: str
    """SPEC that loads the same data again, or a description if it comes from Python."""
    ids: Sequence[str]
    """A stable id per sample; for folders the sorted relative POSIX paths."""
    targets: Sequence[str] | None = None
    """The class name of each sample, or None if the data has no classes."""
    rendering: Rendering | None = None
    """How samples are drawn that are arrays; None for pictures."""
    parallel_reads: int = 0
    """Threads that a source needs to answer without waiting; 0 for one that is read at once."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ids)

    @abstractmethod
    def content(self, sample: int) -> bytes | Image.Image:
        """Return the sample's encoded bytes, or its upright RGB image if there are none.

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

    def size(self, sample: int) -> tuple[int, int]:
        """Return width and height of :meth:`read`, without decoding the pixels where possible.

        Raises
        ------
        ImageError
            If the sample cannot be read.
        """
        content = self.content(sample)
        return upright_size(content, self.ids[sample])

    def digest(self, sample: int) -> str:
        """Return the SHA-256 of the sample's content."""
        return content_digest(self.content(sample))


def numbered_ids(count: int) -> list[str]:
    """Return ids for samples without names: zero-padded numbers."""
    width = len(str(count - 1))
    return [f"{i:0{width}d}" for i in range(count)]


def read_file(path: Path, name: str | None = None) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    ImageError
        If it cannot be read; the error refers to it as ``name``.
    """
    try:
        return read_bytes(path)
    except OSError as error:
        raise ImageError(
            f"Cannot read '{name or path}' ({error.strerror or error}).",
            "Expected a readable file.",
            "Check that it exists and that you have permission to read it.",
        ) from error


_PREFIX = "joined:"


class JoinedImages(Images):
    """The samples of several sources, one source after another.

    The ids of the first source stay as they are; those of source k = 1, 2, ... get the prefix
    ``+k/``. If only some sources have classes, the samples of the others have the class
    :data:`semlens.data.class_mapping.UNLABELLED`.

    Parameters
    ----------
    sources
        Two or more; a source that is joined itself counts as its own sources.

    Raises
    ------
    DataError
        If ids of the first source look like those of another one.
    """

    def __init__(self, sources: Sequence[Images]) -> None:
        self.sources: tuple[Images, ...] = tuple(
            part
            for source in sources
            for part in (source.sources if isinstance(source, JoinedImages) else (source,))
        )
        self.spec = joined_spec([source.spec for source in self.sources])
        self._starts = [0, *accumulate(len(source) for source in self.sources)]
        self.ids = [
            joined_id(number, name)
            for number, source in enumerate(self.sources)
            for name in source.ids
        ]
        for name in self.sources[0].ids:
            if split_id(name, len(self.sources))[0]:
                raise DataError(
                    f"'{name}' of '{self.sources[0].spec}' has the name of an image of another "
                    "source.",
                    f"Names that start with +1/ to +{len(self.sources) - 1}/ are given to the "
                    "images of the other sources.",
                    "Rename the folder.",
                )
        self.targets = _join_targets(self.sources)
        self.rendering = self.sources[0].rendering
        self.parallel_reads = max(source.parallel_reads for source in self.sources)

    def samples_of(self, source: int) -> range:
        """Return the samples of a source, by its number from 0."""
        return range(self._starts[source], self._starts[source + 1])

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the content of a sample, from its source."""
        source = bisect_right(self._starts, sample) - 1
        return self.sources[source].content(sample - self._starts[source])


def _join_targets(sources: Sequence[Images]) -> list[str] | None:
    if all(source.targets is None for source in sources):
        return None
    return [
        name
        for source in sources
        for name in ([UNLABELLED] * len(source) if source.targets is None else source.targets)
    ]


def joined_id(source: int, name: str) -> str:
    """Return the id of a sample from the number of its source and its id there."""
    return f"+{source}/{name}" if source else name


def split_id(name: str, sources: int) -> tuple[int, str]:
    """Return the number of the source and the id there, from an id of joined data.

    Parameters
    ----------
    sources
        Number of sources.
    """
    match = re.match(r"\+([1-9]\d*)/", name)
    if match is None or int(match[1]) >= sources:
        return 0, name
    return int(match[1]), name[match.end() :]


def joined_spec(specs: Sequence[str]) -> str:
    """Return the SPEC of joined data: ``joined:`` and a JSON list of the SPECs of its sources."""
    return _PREFIX + json.dumps(list(specs), ensure_ascii=False)


def split_spec(spec: str) -> list[str] | None:
    """Return the SPECs of the sources of joined data, or None for another SPEC.

    Raises
    ------
    DataError
        If it starts like joined data, and is not.
    """
    if not spec.startswith(_PREFIX) or is_folder(user_path(spec)):
        return None
    try:
        specs = parse_json(spec.removeprefix(_PREFIX))
    except ValueError:
        specs = None
    specs = specs if isinstance(specs, list) else []
    if len(specs) < 2 or not all(isinstance(s, str) and not s.startswith(_PREFIX) for s in specs):
        raise DataError(
            f"The data '{spec}' cannot be read.",
            'Expected a JSON list of two or more texts, such as joined:["photos/", "more/"].',
            "Correct it, or name each source with an option of its own.",
        )
    return specs
