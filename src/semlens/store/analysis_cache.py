"""Tables that questions have derived from a database, kept beside it."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from semlens.errors import StoreError
from semlens.recipe import fingerprint
from semlens.store import file_names
from semlens.store.atomic_files import file_digest, load_table, save_table
from semlens.store.manifest import NAME as MANIFEST


class AnalysisCache:
    """The folder of derived tables; each table remembers what it was made from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, and so of every file of the build."""
        return file_digest(self.path / MANIFEST)

    def cached(
        self,
        kind: str,
        key: Sequence[object],
        make: Callable[[], pd.DataFrame],
        *,
        keep: Callable[[pd.DataFrame], bool] = lambda _: True,
    ) -> pd.DataFrame:
        """Return a table that follows from ``key`` alone: the one that is kept, else a new one.

        Parameters
        ----------
        kind
            What it is; the file's name begins with it.
        key
            Plain values that decide the table: settings, and digests of what it was made from.
        make
            Computes it; plain values in its ``attrs`` are kept, too.
        keep
            Whether a new table is worth a file. None is written in a read-only folder.
        """
        name = f"{kind}-{fingerprint(kind, list(key))[:24]}"
        with suppress(StoreError):  # it can be made again
            kept = self.load_origin(name)
            if kept is not None:
                kept[0].attrs.update(kept[1])
                return kept[0]
        made = make()
        if self.keeps_analysis and keep(made):
            self.save_analysis(name, made, {str(k): v for k, v in made.attrs.items()})
        return made

    def save_analysis(
        self, name: str, frame: pd.DataFrame, origin: Mapping[str, Any] | None = None
    ) -> Path:
        """Keep a derived table; it remembers what it was made from.

        Parameters
        ----------
        origin
            Plain values that say what it was made from, for :meth:`load_origin`. By default
            the whole build, so that the table is void once layers are added.

        Raises
        ------
        StoreError
            If the name is no plain file name.
        """
        if not re.fullmatch(r"[\w][\w.-]*", name):
            raise StoreError(
                f"'{name}' cannot name a table.",
                "Expected letters, digits, '_', '-' and '.'.",
                "Choose another name.",
            )
        made_from = (
            {"database": self.fingerprint}
            if origin is None
            else {"origin": json.dumps(origin, sort_keys=True)}
        )
        path = self._analysis_file(name)
        table = pa.Table.from_pandas(frame, preserve_index=False)
        save_table(path, table.replace_schema_metadata(made_from))
        return path

    def load_analysis(self, name: str, columns: list[str] | None = None) -> pd.DataFrame | None:
        """Return a derived table, or some columns; None when there is none of this very build."""
        path = self._analysis_file(name)
        if not path.is_file():
            return None
        table = load_table(path, columns)
        made_from = (table.schema.metadata or {}).get(b"database", b"").decode()
        return table.to_pandas() if made_from == self.fingerprint else None

    def load_origin(self, name: str) -> tuple[pd.DataFrame, dict[str, Any]] | None:
        """Return a derived table that was kept with an origin, and the origin; or None.

        Whether the origin still holds is for the caller to see: it may outlive added layers.
        """
        path = self._analysis_file(name)
        if not path.is_file():
            return None
        table = load_table(path)
        origin = (table.schema.metadata or {}).get(b"origin")
        return None if origin is None else (table.to_pandas(), json.loads(origin))

    def kept_analyses(self, prefix: str = "") -> list[tuple[str, float]]:
        """Return the names of derived tables and when each was written, newest first.

        Times are seconds since 1970. Whether a table is of this very build is for
        :meth:`load_analysis` to say.
        """
        files = (self.path / file_names.ANALYSIS).glob(f"{glob.escape(prefix)}*.parquet")
        found = [(f.stem, f.stat().st_mtime) for f in files if not f.name.startswith(".")]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    @property
    def keeps_analysis(self) -> bool:
        """Whether derived tables can be kept: not in a folder that is only for reading."""
        folder = self.path / file_names.ANALYSIS
        return os.access(folder if folder.is_dir() else self.path, os.W_OK)

    def _analysis_file(self, name: str) -> Path:
        return self.path / file_names.ANALYSIS / f"{name}.parquet"
