"""Images of a folder, here or behind a URL, whose first-level subfolders are classes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from semlens.data.class_mapping import UNLABELLED, UnmappedWarning
from semlens.data.images import Images, read_file
from semlens.errors import DataError, ImageError
from semlens.regular_files import is_folder, user_path
from semlens.remote_files import RemoteFolder

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
        If the folder is missing or contains no images.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = user_path(root).resolve()
        check_folder(root)
        self.spec = str(self.root)
        self.ids = sorted(file_names(self.root, SUFFIXES))
        if not self.ids:
            raise DataError(
                f"'{root}' contains no images.",
                f"Expected files that end in {', '.join(sorted(SUFFIXES))}.",
                "Check the path and the file endings.",
            )
        self.targets = folder_classes(self.ids)

    def content(self, sample: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.ids[sample], self.ids[sample])


def folder_classes(ids: Sequence[str]) -> list[str] | None:
    """Return the first-level folder of each relative path; None if all are in no folder.

    Images beside the folders have no label, which a warning says.
    """
    loose = [name for name in ids if "/" not in name]
    if len(loose) == len(ids):
        return None
    if loose:
        shown = ", ".join(loose[:3]) + (" ..." if len(loose) > 3 else "")
        warnings.warn(
            f"{len(loose)} of {len(ids)} images are in no class folder ({shown}): they have no "
            "class. Move them into a folder of their class, or out of the data.",
            UnmappedWarning,
            stacklevel=3,
        )
    return [name.split("/", 1)[0] if "/" in name else UNLABELLED for name in ids]


def check_folder(root: str | Path) -> None:
    """Refuse a path that is not a folder (:class:`DataError`), without listing it."""
    if not is_folder(user_path(root)):
        raise DataError(
            f"'{root}' is not a folder.",
            "Expected a folder of images, with a subfolder per class if there are classes.",
            "Check the path, or use datasets/ID for a Hugging Face dataset.",
        )


def file_names(
    folder: Path, suffixes: Collection[str], prefix: str = "", parents: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the relative POSIX paths of files below a folder that end in some suffixes.

    A link to one of its own parent folders is not followed.
    """
    real = os.path.realpath(folder)
    if real in parents:
        return
    try:
        entries = [(entry.name, _is_folder(entry)) for entry in os.scandir(folder)]
    except OSError as error:
        raise DataError(
            f"Cannot read the folder '{folder}' ({error.strerror}).",
            "Expected permission to list every subfolder.",
            "Change its permissions, or move it out of the data.",
        ) from error
    for name, is_subfolder in entries:
        if name.startswith("."):
            continue
        if is_subfolder:
            yield from file_names(folder / name, suffixes, f"{prefix}{name}/", (*parents, real))
        elif Path(name).suffix.lower() in suffixes:
            yield _utf8(prefix + name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is neither."""
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The file name {os.fsencode(name)!r} is not valid UTF-8.",
            "A database stores file names in UTF-8.",
            "Rename the file or its folder.",
        ) from error
    return name


PARALLEL_READS = 32
"""Threads that read from a source that answers after a round trip."""


class RemoteImages(Images):
    """All images below a URL, with the ids and classes of the same folder on this machine.

    Parameters
    ----------
    url
        As returned by :func:`semlens.remote_files.remote_url`.

    Raises
    ------
    DataError
        If it cannot be listed, or contains no images.
    """

    parallel_reads = PARALLEL_READS

    def __init__(self, url: str) -> None:
        self.spec, self._folder = url, RemoteFolder(url, DataError)
        self.ids = sorted(filter(is_image_name, self._folder.names()))
        if not self.ids:
            raise DataError(
                f"'{url}' contains no images.",
                f"Expected files that end in {', '.join(sorted(SUFFIXES))}.",
                "Check the URL. A folder of a web server must be shown as a page of links.",
            )
        self.targets = folder_classes(self.ids)

    def content(self, sample: int) -> bytes:
        """Return the file's bytes."""
        return read_remote(self._folder, self.ids[sample])


def is_image_name(name: str) -> bool:
    """Whether a relative name is that of an image, in folders that are not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part[:1] == "." for part in path.parts)


def read_remote(folder: RemoteFolder, name: str) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    ImageError
        If there is no such file, or it may not be read.
    DataError
        If the store does not answer, which is not the image's fault.
    """
    try:
        return folder.read(name)
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(
            f"Cannot read '{name}' ({type(error).__name__}).",
            "Expected a file that can be read.",
            f"Check that it exists in '{folder.url}' and that you have permission to read it.",
        ) from error
