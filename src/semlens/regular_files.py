"""Reading of files that users name: regular files only, since a pipe or a device never ends."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

_NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str | Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        If it cannot be read, or is a pipe, a device or a folder.
    """
    # opened first and examined then, so that it cannot be exchanged in between
    file = os.fdopen(os.open(path, os.O_RDONLY | _NOT_BLOCKING), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a regular file; errors as for :func:`open_file`."""
    with open_file(path) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """Return the UTF-8 text of a regular file, without the byte-order mark that Excel writes.

    Each line ends with a single line feed.

    Raises
    ------
    OSError
        If it cannot be read, or is a pipe, a device or a folder.
    UnicodeDecodeError
        If it is not UTF-8.
    """
    return as_text(read_bytes(path))


def as_text(data: bytes) -> str:
    """Return the text of the content of a file; errors as for :func:`read_text`."""
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def user_path(path: str | Path) -> Path:
    """Return a path with ``~`` replaced; it stays if there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises RuntimeError


def is_file(path: str | Path) -> bool:
    """Whether a path names a regular file.

    False also for what cannot be a path, and where it cannot be told: pathlib raises an error for a
    name that is too long, and for a folder without permission.
    """
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether a path names a folder; see :func:`is_file`."""
    return os.path.isdir(path)  # noqa: PTH112
