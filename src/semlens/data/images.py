"""What a data set is to semlens: images with stable ids, content hashes and class names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from semlens.data.pixels import content_digest, decode
from semlens.errors import ImageError


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
