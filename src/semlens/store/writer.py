"""Writing a build: its files first, and last the manifest that makes them count."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from semlens.store import layout
from semlens.store.files import file_digest, save_table, save_tensors
from semlens.store.manifest import Manifest


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
        """Write a table; see :func:`semlens.store.files.save_table`."""
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
        return self.path / (f"{layout.STAGED}/{name}" if name in self._there else name)


def move_staged(path: Path, files: Mapping[str, str]) -> None:
    """Put files into place that a writer had no time to move, and remove unfinished ones."""
    staged = path / layout.STAGED
    for file in staged.rglob("*.*") if staged.is_dir() else ():
        name = file.relative_to(staged).as_posix()
        if file.is_file() and file_digest(file) == files.get(name):
            file.replace(path / name)
    shutil.rmtree(staged, ignore_errors=True)
