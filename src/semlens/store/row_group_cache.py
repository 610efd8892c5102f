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
from jaxtyping import Float64, Int64

from semlens.errors import StoreError
from semlens.store.atomic_files import damaged
from semlens.store.locked_cached_property import workers

HELD_BYTES = 32 * 2**20
OPEN_FILES = 32


@dataclass(eq=False)
class _File:
    """An open file; it is closed when nobody holds it any more."""

    parquet: pq.ParquetFile
    starts: Int64[np.ndarray, " g_plus_1"]
    """First row of each row group, and the number of rows."""
    ranges: dict[str, np.ndarray] = field(default_factory=dict)
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

    @property
    def held_groups(self) -> int:
        """Number of decoded row groups in memory."""
        return len(self._groups)

    @property
    def held_bytes(self) -> int:
        """Memory that they take."""
        return sum(table.nbytes for table in list(self._groups.values()))

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
        parts = [
            self._group(name, file, one, tuple(columns)).take(
                wanted[group == one] - file.starts[one]
            )
            for one in np.unique(group).tolist()
        ]
        found = _joined(file, parts, columns)
        # back from the order of the groups to that of the rows
        return found.take(np.argsort(np.argsort(group, kind="stable"))) if len(parts) > 1 else found

    def equal(self, name: str, column: str, value: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows whose ``column`` is ``value``, in a file that is sorted by it.

        Raises
        ------
        StoreError
            If the file is missing or damaged.
        """
        file = self._file(name)
        wanted = tuple(dict.fromkeys((column, *columns)))
        lowest, highest = _ranges(file, column)
        parts: list[pa.Table] = []
        for group in np.flatnonzero((lowest <= value) & (value <= highest)):
            table = self._group(name, file, int(group), wanted)
            start, stop = np.searchsorted(table[column].to_numpy(), [value, value + 1])
            parts.append(table.slice(start, stop - start))
        return _joined(file, parts, wanted).select(list(columns))

    # -- files and groups -------------------------------------------------------------------

    def _file(self, name: str) -> _File:
        with self._lock:
            if name not in self._files:
                path = self._place(name)
                try:
                    parquet = pq.ParquetFile(path)
                    sizes = [group.num_rows for group in _row_groups(parquet)]
                except Exception as error:
                    raise damaged(path, error) from error
                starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
                self._files[name] = _File(parquet, starts)
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
                self._groups[key] = table
                while self.held_bytes > self._most_bytes and len(self._groups) > 1:
                    self._groups.popitem(last=False)
            return table


def _row_groups(parquet: pq.ParquetFile) -> list[pq.RowGroupMetaData]:
    meta = parquet.metadata
    return [meta.row_group(number) for number in range(meta.num_row_groups)]


def _ranges(file: _File, column: str) -> Float64[np.ndarray, "2 g"]:
    """Return the smallest and largest value of each row group, by the file's statistics."""
    if column not in file.ranges:
        place = file.parquet.metadata.schema.names.index(column)
        known = [group.column(place).statistics for group in _row_groups(file.parquet)]
        limits = [(s.min, s.max) if s and s.has_min_max else (-np.inf, np.inf) for s in known]
        file.ranges[column] = np.array(limits, np.float64).reshape(-1, 2).T
    return file.ranges[column]


def _joined(file: _File, parts: list[pa.Table], columns: Sequence[str]) -> pa.Table:
    if parts:
        return pa.concat_tables(parts)
    return pa.schema([file.parquet.schema_arrow.field(name) for name in columns]).empty_table()


def _read(parquet: pq.ParquetFile, group: int, columns: tuple[str, ...]) -> pa.Table:
    return parquet.read_row_group(group, columns=list(columns), use_threads=False)
