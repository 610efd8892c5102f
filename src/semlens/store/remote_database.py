"""A database in an object store or on a web server: files are copied when they are first used."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from semlens.errors import SemlensError, StoreError
from semlens.regular_files import file_digest
from semlens.remote_files import RemoteFolder
from semlens.store import file_names
from semlens.store.atomic_files import write_atomic
from semlens.store.manifest import MANIFEST_NAME

CACHE = "SEMLENS_CACHE"
"""Environment variable: folder of the copies, instead of ``~/.cache/semlens``."""
ATTEMPTS, PAUSE = 3, 0.2
"""Attempts to copy a file whole, and seconds in between."""


@dataclass(frozen=True)
class RemoteDatabase:
    """The files of a database that is elsewhere, and the folder of those that were copied here.

    The folder is named by the digest of the manifest, and each file is compared with its digest in
    the manifest. So what was copied once is right as long as it is there, and a database that has
    been built again has a folder of its own. Thread-safe, also between processes.

    Parameters
    ----------
    remote
        The folder elsewhere.
    folder
        The folder here.
    """

    remote: RemoteFolder
    folder: Path

    @classmethod
    def open(cls, url: str) -> RemoteDatabase:
        """Copy the manifest of a database, and nothing else.

        Raises
        ------
        StoreError
            If there is none, or it cannot be read.
        """
        remote = RemoteFolder(url, StoreError)
        manifest = read_manifest(remote)
        name = url.rpartition("/")[2]
        folder = _cache() / sha256(manifest).hexdigest()[:32] / name
        if not (folder / MANIFEST_NAME).is_file():
            write_atomic(folder / MANIFEST_NAME, lambda part: part.write_bytes(manifest))
        return cls(remote, folder)

    def copy(self, name: str, digest: str) -> None:
        """Copy a file of the build.

        Raises
        ------
        StoreError
            If it is missing, or is not the one of the manifest.
        """
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE * bool(attempt))
            if self._copied(name, lambda path: file_digest(path) == digest):
                return
        raise StoreError(
            f"'{self.remote.url}/{name}' is not the file that the build wrote: its SHA-256 "
            "differs.",
            "Expected the content that the manifest describes.",
            "Upload the database again: first the files, the manifest last.",
        )

    @cached_property
    def analysis_files(self) -> frozenset[str]:
        """Names of the cached results and saved audits; empty if the folder cannot be listed."""
        folder = RemoteFolder(f"{self.remote.url}/{file_names.ANALYSIS}", StoreError)
        try:
            names = folder.names()
        except StoreError:  # not every web server lists its folders, and there may be none
            return frozenset()
        return frozenset(f"{file_names.ANALYSIS}/{name}" for name in names if ".." not in name)

    def analysis_times(self, pattern: str) -> dict[str, float]:
        """Return when each cached result whose name fits a pattern was uploaded; see glob."""
        folder = f"{file_names.ANALYSIS}/"
        return {
            name.removeprefix(folder): self.remote.modified(name)
            for name in self.analysis_files
            if fnmatchcase(name, folder + pattern) and name.count("/") == 1
        }

    def copy_analysis(self, name: str) -> None:
        """Copy a cached result or a saved audit, which no manifest lists, as it is now."""
        self._copied(name, lambda _: True)

    def _copied(self, name: str, is_right: Callable[[Path], bool]) -> bool:
        """Copy a file to a name of its own, and rename it if it is right."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, text = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
        os.close(handle)
        part = Path(text)
        try:
            self.remote.download(name, part)
            if is_right(part):
                part.replace(target)
                return True
            return False
        except SemlensError:
            raise
        except OSError as error:  # missing there, or no space here
            raise StoreError(
                f"'{self.remote.url}/{name}' cannot be copied to '{self.folder}' "
                f"({error.strerror or type(error).__name__}).",
                "Expected a complete database there, and free space here.",
                f"Upload the database again, or choose another folder with {CACHE}.",
            ) from error
        finally:
            part.unlink(missing_ok=True)


def read_manifest(remote: RemoteFolder) -> bytes:
    """Return the manifest of a database.

    Raises
    ------
    StoreError
        If there is none, or it cannot be read.
    """
    try:
        remote.files.invalidate_cache()  # another database may have been uploaded there since
        return remote.read(MANIFEST_NAME)
    except (FileNotFoundError, PermissionError) as error:
        private = ", or log in with 'hf auth login' if it is private"
        raise StoreError(
            f"'{remote.url}' is not a database ({type(error).__name__}).",
            f"Expected a folder with {MANIFEST_NAME} that may be read.",
            f"Check the URL and the credentials{private * remote.url.startswith('hf:')}.",
        ) from error


def _cache() -> Path:
    chosen = os.environ.get(CACHE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(chosen) if chosen else base / "semlens") / "databases"
