"""Rows of Parquet files, one row group at a time, in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from semlens.errors import StoreError
from semlens.store.files import damaged
from semlens.store.workers import workers

HELD_BYTES = 32 * 2**20
OPEN_FILES = 32


@dataclass(eq=False)
class _File:
    """An open file; it is closed when nobody holds it any more."""

    parquet: pq.ParquetFile
    schema: pa.Schema
    starts: Int64[np.ndarray, " g_plus_1"]
    """First row of each row group, and the number of rows."""
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    """A Parquet reader serves one thread at a time."""


class RowGroups:
    """The tables of a folder, of which only the row groups that were read last stay in memory.

    Files are read and not mapped: the pages of a mapped file count as memory of the process.
    Safe to be asked by several threads at once.

    Parameters
    ----------
    folder
        Files are named relative to it.
    place
        Says where a file lies, if not in the folder.
    held_bytes
        Decoded row groups may take so much; one that is larger is held alone.
    open_files
        So many files stay open.
    """

    def __init__(
        self,
        folder: Path,
        held_bytes: int = HELD_BYTES,
        open_files: int = OPEN_FILES,
        place: Callable[[str], Path] | None = None,
    ) -> None:
        self.folder = folder
        self._place = place or folder.joinpath
        self._most_bytes = held_bytes
        self._most_files = open_files
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._bytes = 0

    @property
    def held_groups(self) -> int:
        """Number of decoded row groups in memory."""
        return len(self._groups)

    @property
    def held_bytes(self) -> int:
        """Memory that they take."""
        return self._bytes

    @property
    def open_files(self) -> int:
        """Number of files that are open."""
        return len(self._files)

    def take(self, name: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Return some rows of a file, in the order given.

        Raises
        ------
        StoreError
            If the file is missing or damaged, or shorter.
        """
        file = self._file(name)
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < file.starts[-1]:
            raise StoreError(
                f"'{self.folder / name}' has {file.starts[-1]} rows.",
                f"Row {wanted.max()} was asked for.",
                "Restore it, or build the database again.",
            )
        group = np.searchsorted(file.starts, wanted, "right") - 1
        parts: list[pa.Table] = []
        places: list[np.ndarray] = []
        for one in np.unique(group):
            places.append(np.flatnonzero(group == one))
            table = self._group(name, file, int(one), tuple(columns))
            parts.append(table.take(wanted[places[-1]] - file.starts[one]))
        found = self._joined(file, parts, columns)
        return found.take(np.argsort(np.concatenate(places))) if len(places) > 1 else found

    def equal(self, name: str, column: str, value: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows whose ``column`` is ``value``, in a file that is sorted by it.

        Raises
        ------
        StoreError
            If the file is missing or damaged.
        """
        file = self._file(name)
        wanted = tuple(dict.fromkeys((column, *columns)))
        lowest, highest = self._ranges(name, file, column)
        parts: list[pa.Table] = []
        for group in np.flatnonzero((lowest <= value) & (value <= highest)):
            table = self._group(name, file, int(group), wanted)
            start, stop = np.searchsorted(table[column].to_numpy(), [value, value + 1])
            parts.append(table.slice(start, stop - start))
        return self._joined(file, parts, wanted).select(list(columns))

    # -- files and groups -------------------------------------------------------------------

    def _file(self, name: str) -> _File:
        with self._lock:
            if name not in self._files:
                path = self._place(name)
                try:
                    parquet = pq.ParquetFile(path)
                    meta = parquet.metadata
                    sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
                except Exception as error:
                    raise damaged(path, error) from error
                starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
                self._files[name] = _File(parquet, parquet.schema_arrow, starts)
            self._files.move_to_end(name)
            while len(self._files) > self._most_files:
                self._files.popitem(last=False)
            return self._files[name]

    def _group(self, name: str, file: _File, group: int, columns: tuple[str, ...]) -> pa.Table:
        key = (name, group, columns)
        with file.lock:  # who comes second finds what the first has read
            with self._lock:
                if key in self._groups:
                    self._groups.move_to_end(key)
                    return self._groups[key]
            try:
                table = workers().submit(_read, file.parquet, group, columns).result()
            except Exception as error:
                raise damaged(self.folder / name, error) from error
            with self._lock:
                self._hold(key, table)
            return table

    def _hold(self, key: tuple[str, int, tuple[str, ...]], table: pa.Table) -> None:
        before = self._groups.pop(key, None)  # read twice, when its file was opened twice
        self._bytes += table.nbytes - (before.nbytes if before is not None else 0)
        self._groups[key] = table
        while self._bytes > self._most_bytes and len(self._groups) > 1:
            self._bytes -= self._groups.popitem(last=False)[1].nbytes

    def _ranges(self, name: str, file: _File, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and largest value of each row group, by the file's statistics."""
        if column not in file.ranges:
            meta = file.parquet.metadata
            lowest = np.full(meta.num_row_groups, -np.inf)
            highest = np.full(meta.num_row_groups, np.inf)
            for group in range(meta.num_row_groups):
                part = meta.row_group(group)
                for place in range(part.num_columns):
                    found = part.column(place)
                    known = found.statistics
                    if found.path_in_schema == column and known is not None and known.has_min_max:
                        lowest[group], highest[group] = known.min, known.max
            file.ranges[column] = (lowest, highest)
        return file.ranges[column]

    @staticmethod
    def _joined(file: _File, parts: list[pa.Table], columns: Sequence[str]) -> pa.Table:
        if parts:
            return parts[0] if len(parts) == 1 else pa.concat_tables(parts)
        return pa.schema([file.schema.field(name) for name in columns]).empty_table()


def _read(parquet: pq.ParquetFile, group: int, columns: tuple[str, ...]) -> pa.Table:
    return parquet.read_row_group(group, columns=list(columns), use_threads=False)
