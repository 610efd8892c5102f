"""Reading rows of Parquet files by row group, with a bounded cache."""

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
from semlens.store.atomic_files import damaged, file_version
from semlens.store.locked_cached_property import workers

MAX_BYTES = 32 * 2**20
MAX_OPEN_FILES = 32


@dataclass(eq=False)
class _OpenFile:
    """An open file; it is closed when it is no longer referenced."""

    path: Path
    version: tuple[int, ...] | None
    parquet: pq.ParquetFile
    starts: Int64[np.ndarray, " g_plus_1"]
    """First row of each row group, followed by the number of rows."""
    ranges: dict[str, np.ndarray] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    """A Parquet reader serves one thread at a time."""


class RowGroupCache:
    """Tables of a folder, of which the most recently used row groups stay in memory.

    Files are not memory-mapped, since mapped pages count as memory of the process. Thread-safe.

    Parameters
    ----------
    folder
        Folder that file names are relative to.
    locate
        Returns the path of a file, if not in the folder.
    max_bytes
        Limit for decoded row groups; a larger group is cached alone.
    max_open_files
        Limit for open files.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int = MAX_BYTES,
        max_open_files: int = MAX_OPEN_FILES,
        locate: Callable[[str], Path] | None = None,
    ) -> None:
        self.folder = folder
        self._locate = locate or folder.joinpath
        self._max_bytes = max_bytes
        self._max_open_files = max_open_files
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int, tuple[str, ...]], pa.Table] = OrderedDict()

    @property
    def cached_groups(self) -> int:
        """Number of decoded row groups in memory."""
        return len(self._groups)

    @property
    def cached_bytes(self) -> int:
        """Memory taken by decoded row groups."""
        return sum(table.nbytes for table in list(self._groups.values()))

    @property
    def open_files(self) -> int:
        """Number of open files."""
        return len(self._files)

    def take(self, name: str, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Return some rows of a file, in the order given.

        Raises
        ------
        StoreError
            If the file is missing, damaged or too short.
        """
        file = self._file(name)
        indices = np.asarray(rows, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < file.starts[-1]:
            raise StoreError(
                f"'{self.folder / name}' has {file.starts[-1]} rows.",
                f"Expected a row {indices.max()}.",
                "Restore it, or build the database again.",
            )
        group_of_row = np.searchsorted(file.starts, indices, "right") - 1
        tables = [
            self._group(name, file, group_index, tuple(columns)).take(
                indices[group_of_row == group_index] - file.starts[group_index]
            )
            for group_index in np.unique(group_of_row).tolist()
        ]
        rows_by_group = _concatenate(file, tables, columns)
        # tables are in the order of groups; the inverse permutation restores that of the rows
        return (
            rows_by_group.take(np.argsort(np.argsort(group_of_row, kind="stable")))
            if len(tables) > 1
            else rows_by_group
        )

    def where_equal(self, name: str, column: str, value: int, columns: Sequence[str]) -> pa.Table:
        """Return the rows whose ``column`` equals ``value``, in a file that is sorted by it.

        Raises
        ------
        StoreError
            If the file is missing or damaged.
        """
        file = self._file(name)
        columns_read = tuple(dict.fromkeys((column, *columns)))
        lowest, highest = _ranges(file, column)
        tables: list[pa.Table] = []
        for group in np.flatnonzero((lowest <= value) & (value <= highest)):
            table = self._group(name, file, int(group), columns_read)
            start, stop = np.searchsorted(table[column].to_numpy(), [value, value + 1])
            tables.append(table.slice(start, stop - start))
        return _concatenate(file, tables, columns_read).select(list(columns))

    # -- files and groups -------------------------------------------------------------------

    def _file(self, name: str) -> _OpenFile:
        with self._lock:
            if name not in self._files:
                path = self._locate(name)
                version = file_version(path)
                try:
                    parquet = pq.ParquetFile(path)
                    sizes = [group.num_rows for group in _row_groups(parquet)]
                except Exception as error:
                    raise damaged(path, error) from error
                starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
                self._files[name] = _OpenFile(path, version, parquet, starts)
            self._files.move_to_end(name)
            while len(self._files) > self._max_open_files:
                self._files.popitem(last=False)
            return self._files[name]

    def _group(self, name: str, file: _OpenFile, group: int, columns: tuple[str, ...]) -> pa.Table:
        key = (name, group, columns)
        with file.lock:  # a second thread finds what the first one has read
            with self._lock:
                if key in self._groups:
                    self._groups.move_to_end(key)
                    return self._groups[key]
            try:
                table = workers().submit(_read, file.parquet, group, columns).result()
            except Exception as error:
                raise damaged(self.folder / name, error) from error
            if _written(file):
                with self._lock:
                    self._files.pop(name, None)  # the next read verifies it again
                raise damaged(file.path, RuntimeError("it was written while it was read"))
            with self._lock:
                self._groups[key] = table
                while self.cached_bytes > self._max_bytes and len(self._groups) > 1:
                    self._groups.popitem(last=False)
            return table


def _written(file: _OpenFile) -> bool:
    """Whether an open file was written in place; one that was replaced or removed is as before."""
    version = file_version(file.path)
    same_file = version is not None and file.version is not None and version[0] == file.version[0]
    return same_file and version != file.version


def _row_groups(parquet: pq.ParquetFile) -> list[pq.RowGroupMetaData]:
    meta = parquet.metadata
    return [meta.row_group(number) for number in range(meta.num_row_groups)]


def _ranges(file: _OpenFile, column: str) -> Float64[np.ndarray, "2 g"]:
    """Return the smallest and largest value of each row group from the file's statistics."""
    if column not in file.ranges:
        column_index = file.parquet.metadata.schema.names.index(column)
        statistics = [group.column(column_index).statistics for group in _row_groups(file.parquet)]
        limits = [
            (stats.min, stats.max) if stats and stats.has_min_max else (-np.inf, np.inf)
            for stats in statistics
        ]
        file.ranges[column] = np.array(limits, np.float64).reshape(-1, 2).T
    return file.ranges[column]


def _concatenate(file: _OpenFile, tables: list[pa.Table], columns: Sequence[str]) -> pa.Table:
    if tables:
        return pa.concat_tables(tables)
    return pa.schema([file.parquet.schema_arrow.field(name) for name in columns]).empty_table()


def _read(parquet: pq.ParquetFile, group: int, columns: tuple[str, ...]) -> pa.Table:
    return parquet.read_row_group(group, columns=list(columns), use_threads=False)
