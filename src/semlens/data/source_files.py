"""Files that hold many images: named by a pattern, read in parts, here or in an object store."""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from semlens.data.image_folder import PARALLEL_READS
from semlens.data.images import Images
from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import DataError, shortened
from semlens.regular_files import is_file, is_folder, open_file, user_path
from semlens.remote_files import RemoteFolder, remote_url

T = TypeVar("T")
R = TypeVar("R")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_FILES = 1_000_000
_BLOCK = 2**20
"""Bytes that are read from a remote file at a time when it is read from start to end."""


class SourceFile(ABC):
    """A file that is read in parts; thread-safe."""

    name: str
    """Its name without the folder, for ids and errors."""

    @abstractmethod
    def open(self) -> Any:
        """Open it, to read it from start to end."""

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes ``start`` to ``stop - 1``, fewer if it ends before."""


@dataclass(frozen=True)
class LocalFile(SourceFile):
    """A file of this machine."""

    path: Path

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the file."""
        return self.path.name

    def open(self) -> Any:
        """Open a regular file."""
        return open_file(self.path)

    def read(self, start: int, stop: int) -> bytes:
        """Return a part of it."""
        with open_file(self.path) as file:
            file.seek(start)
            return file.read(stop - start)


@dataclass(frozen=True)
class RemoteFile(SourceFile):
    """A file of an object store or a web server."""

    folder: RemoteFolder
    name: str

    def open(self) -> Any:
        """Open it; parts that follow each other are read in one request."""
        return self.folder.open(self.name, _BLOCK)

    def read(self, start: int, stop: int) -> bytes:
        """Return a part of it, in one request."""
        return self.folder.read_range(self.name, start, stop) if stop > start else b""


def find_files(pattern: str) -> list[SourceFile]:
    """Return the files of a pattern: ``{000..127}`` and ``{a,b}`` in any part, ``*`` in the last.

    Raises
    ------
    DataError
        If there is none, or a path of this machine is not a regular file.
    """
    found: list[SourceFile] = []
    for path in expand_braces(pattern):
        head, _, name = path.rpartition("/")
        folder = remote_url(head)
        is_glob = any(sign in name for sign in "*?[")
        if folder is not None:
            remote = RemoteFolder(folder, DataError)
            names = [name]
            if is_glob:
                names = sorted(n for n in remote.names() if "/" not in n and fnmatchcase(n, name))
            found += [RemoteFile(remote, name) for name in names]
        elif is_glob:
            parent = user_path(head or ("/" if path.startswith("/") else "."))
            found += [LocalFile(p) for p in sorted(parent.glob(name)) if is_file(p)]
        elif is_file(user_path(path)):
            found.append(LocalFile(user_path(path)))
        else:
            raise _missing(path)
    if not found:
        raise _missing(pattern)
    return found


class ImagesInFiles(Images):
    """Images of files that hold many each."""

    def _find(self, prefix: str, pattern: str) -> list[SourceFile]:
        """Return the files of a pattern, and set what follows from them."""
        pattern = pattern.removeprefix(prefix)
        self.spec = prefix + absolute_pattern(pattern)
        files = find_files(pattern)
        is_remote = not all(isinstance(file, LocalFile) for file in files)
        self.parallel_reads = PARALLEL_READS if is_remote else 0
        return files

    def _of_each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield what a function reads of each, ahead in threads."""
        return prefetch(function, items, max(default_workers(), self.parallel_reads))


def absolute_pattern(pattern: str) -> str:
    """Return a pattern that names the same files from any folder."""
    return remote_url(pattern) or str(user_path(pattern).absolute())


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield what a pattern with ``{000..127}`` or ``{a,b}`` stands for, in order.

    Raises
    ------
    DataError
        If these are more than a million.
    """
    pieces = _BRACES.split(pattern)
    choices: list[list[str] | range] = [[pieces[0]]]
    count, widths = 1, [0]
    for inside, text in zip(pieces[1::2], pieces[2::2], strict=True):
        numbers = _RANGE.fullmatch(inside)
        first, last = (int(n) for n in numbers.groups()) if numbers else (0, 0)
        chosen = range(first, last + 1) if numbers else inside.split(",")
        count *= len(chosen)
        choices += [chosen, [text]]
        widths += [len(numbers[1]) if numbers else 0, 0]
    if not 0 < count <= _MAX_FILES:
        raise DataError(
            f"'{shortened(pattern)}' names {count} files.",
            f"Expected 1 to {_MAX_FILES}, and ranges such as {{000..127}} that ascend.",
            "Check the numbers.",
        )
    for parts in itertools.product(*choices):
        yield "".join(str(p).zfill(width) for p, width in zip(parts, widths, strict=True))


def _missing(path: str) -> DataError:
    what = "a folder" if is_folder(user_path(path)) else "not a file"
    return DataError(
        f"'{shortened(path)}' is {what}.",
        "Expected a file, or a pattern such as 'shards/{000..127}.tar' or 'parts/*.parquet'.",
        "Check the path.",
    )
