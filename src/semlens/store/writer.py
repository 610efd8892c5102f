"""Writing a build, one writer at a time: its files first, and last the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from torch import Tensor

from semlens.errors import BusyError, StoreError
from semlens.store import file_names
from semlens.store.atomic_files import file_digest, save_table, save_tensors
from semlens.store.manifest import NAME, Manifest


@contextmanager
def writing(database: Path) -> Iterator[None]:
    """Hold the right to write; the system gives it back if the process is killed.

    Raises
    ------
    BusyError
        If another process holds it.
    StoreError
        If the path is a file, or a folder of something else.
    """
    if database.exists():
        inside = {p.name for p in database.iterdir()} if database.is_dir() else {"a file"}
        if inside and inside.isdisjoint((NAME, file_names.PARTIAL, file_names.LOCK)):
            raise StoreError(
                f"'{database}' exists and is no database.",
                "Expected a new path, or a database to go on with.",
                "Choose another path; nothing was changed.",
            )
    try:
        database.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"'{database}' cannot be made ({error.strerror}).",
            "Expected a place that can be written.",
            "Choose another path.",
        ) from error
    try:
        held = FileLock(str(database / file_names.LOCK)).acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"'{database}' is being written by another process.",
            "Expected one writer at a time.",
            "Wait until it has ended, or choose another path.",
        ) from error
    with held:
        yield


class BuildWriter:
    """Writes files of a database and remembers their hashes.

    A file that is part of the database already is written aside and takes its place after the
    manifest: whenever the writer is stopped, the manifest that is there finds its own files.

    Parameters
    ----------
    before
        The database's manifest, or None for a new one.
    """

    def __init__(self, path: Path, before: Manifest | None) -> None:
        self.path = path
        self.files: dict[str, str] = dict(before.files) if before else {}
        self._there = frozenset(self.files)

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a file of tensors."""
        save_tensors(self._place(name), tensors)
        self.files[name] = file_digest(self._place(name))

    def table(
        self, name: str, table: pa.Table, *, group: int | None = None, packed: str | None = None
    ) -> None:
        """Write a table; see :func:`semlens.store.atomic_files.save_table`."""
        save_table(self._place(name), table, group=group, packed=packed)
        self.files[name] = file_digest(self._place(name))

    def forget(self, prefix: str) -> None:
        """Leave files out of the next manifest whose names start so."""
        self.files = {name: d for name, d in self.files.items() if not name.startswith(prefix)}

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest with the hashes of all files, and put what was replaced in place."""
        files = dict(sorted(self.files.items()))
        manifest.model_copy(update={"files": files}).save(self.path)
        move_staged(self.path, files)

    def _place(self, name: str) -> Path:
        return self.path / (f"{file_names.STAGED}/{name}" if name in self._there else name)


def move_staged(path: Path, files: Mapping[str, str]) -> None:
    """Put files into place that a writer had no time to move, and remove unfinished ones."""
    staged = path / file_names.STAGED
    for file in staged.rglob("*.*") if staged.is_dir() else ():
        name = file.relative_to(staged).as_posix()
        if file.is_file() and file_digest(file) == files.get(name):
            file.replace(path / name)
    shutil.rmtree(staged, ignore_errors=True)
