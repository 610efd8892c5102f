"""Images of a folder in an object store or on a web server."""

from __future__ import annotations

from pathlib import PurePosixPath

from semlens.data.image_folder import SUFFIXES, folder_classes
from semlens.data.images import Images
from semlens.errors import DataError, ImageError
from semlens.remote_files import RemoteFolder

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
