"""A folder of images; its first-level sub-folders are classes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from PIL import Image

from semlens.data.images import Images
from semlens.data.pixels import decode
from semlens.errors import DataError, ImageError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
)


class ImageFolder(Images):
    """All images below a folder, in the order of their relative POSIX paths.

    Parameters
    ----------
    root
        The folder. Links are followed; hidden files and folders are not.

    Raises
    ------
    DataError
        If the folder is missing or holds no image.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        if not self.root.is_dir():
            raise DataError(
                f"'{root}' is not a folder.",
                "Expected a folder of images, with a sub-folder per class if it has classes.",
                "Check the path, or give datasets/ID for a Hugging Face data set.",
            )
        self.spec = str(self.root)
        self.ids = sorted(_image_paths(self.root))
        if not self.ids:
            raise DataError(
                f"'{root}' holds no image.",
                f"Expected files that end in {', '.join(sorted(SUFFIXES))}.",
                "Check the path and the endings of the files.",
            )
        nested = ["/" in name for name in self.ids]
        self.targets = [name.split("/", 1)[0] for name in self.ids] if all(nested) else None

    def read(self, sample: int) -> Image.Image:
        """Return the image as upright RGB."""
        return decode(self._bytes(sample), self.ids[sample])

    def digest(self, sample: int) -> str:
        """Return the SHA-256 of the file."""
        return hashlib.sha256(self._bytes(sample)).hexdigest()

    def _bytes(self, sample: int) -> bytes:
        name = self.ids[sample]
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise ImageError(
                f"'{name}' cannot be read ({error.strerror}).",
                "Expected a readable file.",
                "Check its permissions and whether it still exists.",
            ) from error


def _image_paths(root: Path) -> list[str]:
    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [
            (Path(folder) / f).relative_to(root).as_posix()
            for f in files
            if Path(f).suffix.lower() in SUFFIXES and not f.startswith(".")
        ]
    return found
