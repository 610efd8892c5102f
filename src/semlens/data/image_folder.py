"""A folder of images; its first-level sub-folders are classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from semlens.data.images import Images, read_file
from semlens.errors import DataError

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
        check_folder(root)
        self.spec = str(self.root)
        self.ids = sorted(_image_paths(self.root, "", ()))
        if not self.ids:
            raise DataError(
                f"'{root}' holds no image.",
                f"Expected files that end in {', '.join(sorted(SUFFIXES))}.",
                "Check the path and the endings of the files.",
            )
        nested = ["/" in name for name in self.ids]
        self.targets = [name.split("/", 1)[0] for name in self.ids] if all(nested) else None

    def content(self, sample: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.ids[sample], self.ids[sample])


def check_folder(root: str | Path) -> None:
    """Refuse what is not a folder (:class:`DataError`); what is in it is not looked at."""
    if not Path(root).expanduser().is_dir():
        raise DataError(
            f"'{root}' is not a folder.",
            "Expected a folder of images, with a sub-folder per class if it has classes.",
            "Check the path, or give datasets/ID for a Hugging Face data set.",
        )


def _image_paths(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Yield relative POSIX paths; a link to a folder that it lies in is not followed again."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(
            f"The folder '{folder}' cannot be read ({error.strerror}).",
            "Expected to be allowed to list every folder.",
            "Change its permissions, or move it out of the data.",
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _image_paths(folder / entry.name, f"{prefix}{entry.name}/", (*above, real))
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield _utf8(prefix + entry.name)


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The name {os.fsencode(name)!r} is not UTF-8.",
            "Expected file names in UTF-8, as a database holds them.",
            "Rename the file or its folder.",
        ) from error
    return name
