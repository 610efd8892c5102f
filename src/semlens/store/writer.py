"""Writing the files of a build under a lock, the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from torch import Tensor

from semlens.errors import BusyError, StoreError, shortened
from semlens.regular_files import file_digest
from semlens.remote_files import remote_url
from semlens.store import file_names
from semlens.store.atomic_files import save_table, save_tensors
from semlens.store.manifest import MANIFEST_NAME, Manifest


@contextmanager
def write_lock(database: Path) -> Iterator[None]:
    """Hold the write lock of a database; the system releases it if the process is killed.

    Raises
    ------
    BusyError
        If another process holds it.
    StoreError
        If the path is a file, or a folder that is not a database.
    """
    if (url := remote_url(database)) is not None:
        raise StoreError(
            f"'{url}' is not on this machine.",
            "A database is built in a folder of this machine: its files are replaced as one.",
            "Build into a folder, then upload it, manifest.json last: aws s3 sync, gsutil rsync.",
        )
    try:
        check_folder(database)
        database.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(database / file_names.LOCK)).acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"'{database}' is being written by another process.",
            "Expected one writer at a time.",
            "Wait until it has finished, or choose another path.",
        ) from error
    except (OSError, NotImplementedError) as error:  # the latter where no file can be locked
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"'{shortened(database)}' cannot be written ({reason}).",
            "Expected a writable path.",
            "Check its permissions and the disk, or choose another path.",
        ) from error
    with lock:
        yield


def check_folder(database: Path) -> None:
    """Raise an error if a path is a file, or a folder of something else."""
    if not database.exists():
        return
    names = {p.name for p in database.iterdir()} if database.is_dir() else {"a file"}
    if names and names.isdisjoint((MANIFEST_NAME, file_names.PARTIAL, file_names.LOCK)):
        raise StoreError(
            f"'{database}' exists and is not a database.",
            "Expected a new path, or a database to resume or extend.",
            "Choose another path; nothing was changed.",
        )


class BuildWriter:
    """Writes files of a database and records their hashes.

    Files that replace existing ones are staged and moved after the manifest is written: whenever
    the writer is interrupted, the current manifest finds its own files.

    Parameters
    ----------
    previous
        The database's current manifest, or None for a new database.
    """

    def __init__(self, path: Path, previous: Manifest | None) -> None:
        self.path = path
        self.files: dict[str, str] = dict(previous.files) if previous else {}
        self._existing = frozenset(self.files)

    def tensors(
        self, name: str, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None
    ) -> None:
        """Write a file of tensors, with texts in its header."""
        save_tensors(self._target_path(name), tensors, header)
        self.files[name] = file_digest(self._target_path(name))

    def table(
        self,
        name: str,
        table: pa.Table,
        *,
        rows_per_group: int | None = None,
        compressed_column: str | None = None,
    ) -> None:
        """Write a table; see :func:`semlens.store.atomic_files.save_table`."""
        save_table(
            self._target_path(name),
            table,
            rows_per_group=rows_per_group,
            compressed_column=compressed_column,
        )
        self.files[name] = file_digest(self._target_path(name))

    def drop(self, prefix: str) -> None:
        """Leave files whose names start with ``prefix`` out of the next manifest."""
        self.files = {
            name: digest for name, digest in self.files.items() if not name.startswith(prefix)
        }

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest with the hashes of all files, and move staged files into place.

        Files of the build that it does not list are removed.
        """
        files = dict(sorted(self.files.items()))
        manifest.model_copy(update={"files": files}).save(self.path)
        move_staged(self.path, files)
        remove_unlisted(self.path, files)

    def _target_path(self, name: str) -> Path:
        return self.path / (f"{file_names.STAGED}/{name}" if name in self._existing else name)


def move_staged(path: Path, files: Mapping[str, str]) -> None:
    """Move staged files that the manifest lists into place, and remove all others."""
    staged = path / file_names.STAGED
    for file in staged.rglob("*.*") if staged.is_dir() else ():
        name = file.relative_to(staged).as_posix()
        if file.is_file() and file_digest(file) == files.get(name):
            file.replace(path / name)
    shutil.rmtree(staged, ignore_errors=True)


def remove_unlisted(path: Path, files: Mapping[str, str]) -> None:
    """Remove files of the build that the manifest does not list."""
    for folder in file_names.BUILD_FOLDERS:
        for file in (path / folder).rglob("*.*"):
            if file.is_file() and file.relative_to(path).as_posix() not in files:
                file.unlink()
