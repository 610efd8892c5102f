"""Cache of tables derived from a database, stored in its ``analysis`` folder."""

from __future__ import annotations

import glob
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from semlens.documents import parse_json
from semlens.errors import StoreError
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest
from semlens.store import file_names
from semlens.store.atomic_files import load_sealed_table, save_sealed_table
from semlens.store.manifest import MANIFEST_NAME
from semlens.store.remote_database import RemoteDatabase


class AnalysisCache:
    """Folder of derived tables; each one records what it was computed from.

    Those of a database elsewhere are copied when they are read; nothing is saved there.
    """

    def __init__(self, path: Path, remote: RemoteDatabase | None = None) -> None:
        self.path, self._remote = path, remote
        self._copied: set[str] = set()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which identifies every file of the build."""
        return file_digest(self.path / MANIFEST_NAME)

    def cached(
        self,
        kind: str,
        key: Sequence[object],
        compute: Callable[[], pd.DataFrame],
        *,
        worth_saving: Callable[[pd.DataFrame], bool] = lambda _: True,
        holding: AbstractContextManager[Any] | None = None,
    ) -> pd.DataFrame:
        """Return a saved table that is determined by ``key``, or compute it.

        Parameters
        ----------
        kind
            Prefix of the file's name.
        key
            Plain values that determine the table: settings, and digests of its inputs.
        compute
            Computes the table; plain values in its ``attrs`` are saved too.
        worth_saving
            Whether to save a new table. Nothing is saved in a read-only folder.
        holding
            A lock to hold while the table is computed.
        """
        name = f"{kind}-{fingerprint(kind, list(key))[:24]}"
        if holding is not None and (saved := self._saved(name)) is not None:
            return saved
        # threads that ask for the same table compute it once
        with holding or nullcontext(), vars(self).setdefault("_cache_lock", threading.RLock()):
            if (saved := self._saved(name)) is not None:
                return saved
            frame = compute()
            if self.is_writable and worth_saving(frame):
                with suppress(StoreError):  # another process may be writing it
                    self.save_analysis(name, frame, {str(k): v for k, v in frame.attrs.items()})
            return frame

    def _saved(self, name: str) -> pd.DataFrame | None:
        """Return a table with its origin as attributes, if there is one that can be read."""
        with suppress(StoreError):  # it can be recomputed
            saved = self.load_with_origin(name)
            if saved is not None:
                saved[0].attrs.update(saved[1])
                return saved[0]
        return None

    def save_analysis(
        self, name: str, frame: pd.DataFrame, origin: Mapping[str, Any] | None = None
    ) -> Path:
        """Save a derived table and what it was computed from.

        Parameters
        ----------
        origin
            Plain values that say what it was computed from, for :meth:`load_with_origin`. By
            default the whole build, so that the table becomes invalid when layers are added.

        Raises
        ------
        StoreError
            If the name is not a plain file name, or the database is elsewhere.
        """
        if self._remote is not None:
            raise StoreError(
                f"'{self._remote.remote.url}' cannot be written.",
                "Expected a database on this machine to save results in.",
                "Copy it to this machine, save them there, and upload its folder 'analysis'.",
            )
        if not re.fullmatch(r"[\w][\w.-]*", name):
            raise StoreError(
                f"'{name}' is not a valid name of a table.",
                "Expected letters, digits, '_', '-' and '.'.",
                "Choose another name.",
            )
        metadata = (
            {"database": self.fingerprint}
            if origin is None
            else {"origin": json.dumps(origin, sort_keys=True)}
        )
        path = self._analysis_file(name)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        save_sealed_table(path, table.replace_schema_metadata(metadata))
        return path

    def load_analysis(self, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
        """Return a derived table, or some columns; None if there is none for this build."""
        path = self._current_analysis_file(name)
        if path is None:
            return None
        table = load_sealed_table(path, columns)
        built_from = (table.schema.metadata or {}).get(b"database", b"").decode()
        return table.to_pandas() if built_from == self.fingerprint else None

    def load_with_origin(self, name: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """Return a derived table that was saved with an origin, and the origin; or None.

        The caller must check whether the origin is still valid: it may be after layers were added.
        """
        path = self._current_analysis_file(name)
        if path is None:
            return None
        table = load_sealed_table(path)
        origin = (table.schema.metadata or {}).get(b"origin")
        return None if origin is None else (table.to_pandas(), parse_json(origin, finite=False))

    def list_analyses(self, prefix: str = "") -> list[tuple[str, float]]:
        """Return the names of derived tables and when each was written, newest first.

        Times are seconds since 1970. The tables may be of an earlier build, see
        :meth:`load_analysis`.
        """
        pattern = f"{glob.escape(prefix)}*.parquet"
        if self._remote is None:
            files = (self.path / file_names.ANALYSIS).glob(pattern)
            times = {file.name: file.stat().st_mtime for file in files}
        else:
            times = self._remote.analysis_times(pattern)
        names = [(name[: -len(".parquet")], t) for name, t in times.items() if name[0] != "."]
        return sorted(names, key=lambda pair: (-pair[1], pair[0]))

    @property
    def is_writable(self) -> bool:
        """Whether derived tables can be saved: the folder is here and not read-only."""
        if self._remote is not None:
            return False
        folder = self.path / file_names.ANALYSIS
        return os.access(folder if folder.is_dir() else self.path, os.W_OK)

    def audits_folder(self) -> Path:
        """Return the folder of the saved audits, after copying those of a database elsewhere."""
        folder = self.path / file_names.AUDITS
        if self._remote is not None:
            names = {n for n in self._remote.analysis_files if n.startswith(file_names.AUDITS)}
            for name in names:
                self._remote.copy_analysis(name)
            for file in folder.glob("*.json"):  # copied at an earlier time
                if f"{file_names.AUDITS}/{file.name}" not in names:
                    file.unlink(missing_ok=True)
        return folder

    def _current_analysis_file(self, name: str) -> Path | None:
        """Return the file of a derived table if there is one; copied, the first time."""
        path = self._analysis_file(name)
        if self._remote is not None and name not in self._copied:
            if f"{file_names.ANALYSIS}/{path.name}" not in self._remote.analysis_files:
                return None
            self._remote.copy_analysis(f"{file_names.ANALYSIS}/{path.name}")
            self._copied.add(name)
        return path if path.is_file() else None

    def _analysis_file(self, name: str) -> Path:
        return self.path / file_names.ANALYSIS / f"{name}.parquet"
