"""Images in a column of Parquet files."""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semlens.data.class_mapping import name_targets
from semlens.data.image_folder import folder_classes
from semlens.data.images import numbered_ids
from semlens.data.source_files import ImagesInFiles, SourceFile
from semlens.documents import parse_json, refuse_repeated_columns
from semlens.errors import DataError, ImageError, SemlensError, reason_of

PREFIX = "parquet:"
_BYTES, _PATH = "bytes", "path"
_LABELS = ("label", "labels", "class", "target")
_MAX_GROUPS = 4
"""Row groups that stay in memory: images are read nearly in order, by several threads."""


class ParquetImages(ImagesInFiles):
    """The images of a column of encoded bytes, or of ``{bytes, path}`` as Hugging Face writes it.

    The samples are the rows, in order. Their ids are the paths, in the column itself or in a
    column ``path``, if all are different; otherwise numbers. Their classes are those of a column
    ``label``, ``labels``, ``class`` or ``target``, with the names that Hugging Face saves, or else
    the first-level folders of the paths.

    Parameters
    ----------
    pattern
        Paths or URLs: ``parts/*.parquet``, ``s3://bucket/{00..07}.parquet``, with or without
        ``parquet:``.
    column
        The column of images; by default the only one that can be.

    Raises
    ------
    DataError
        If a file is missing or damaged, has other columns than the first one, or no rows.
    """

    def __init__(self, pattern: str, column: str | None = None) -> None:
        files = self._find(PREFIX, pattern)
        self._files = list(self._of_each(_File, files))
        first = self._files[0].schema
        for file in self._files:
            if not file.schema.equals(first):
                raise DataError(
                    f"'{file.name}' has other columns than '{self._files[0].name}'.",
                    "Expected files of one data set.",
                    "Narrow the pattern to the files of one data set.",
                )
        self._column = _image_column(first, column, self.spec)
        starts = [0, *accumulate(sum(file.groups) for file in self._files)]
        self._starts, count = starts[:-1], starts[-1]
        if not count:
            raise DataError(
                f"'{self.spec}' has no rows.", "Expected at least one.", "Choose other files."
            )
        paths = self._paths(first)
        self.ids = paths if paths is not None else numbered_ids(count)
        label = next((name for name in _LABELS if name in first.names), None)
        if label is not None:
            names = _class_names(first, label)
            self.targets = name_targets(self._values(label), names, self.spec)
        else:
            self.targets = folder_classes(self.ids)

    def content(self, sample: int) -> bytes:
        """Return the encoded image of a row.

        Raises
        ------
        ImageError
            If the row has none, or its part of the file is damaged.
        """
        number = bisect.bisect_right(self._starts, sample) - 1
        file = self._files[number]
        try:
            value = file.value(self._column, sample - self._starts[number])
        except SemlensError:
            raise
        except Exception as error:  # the reader raises many types of errors for damaged bytes
            raise ImageError(
                f"Row {sample} of '{self.spec}' cannot be read ({reason_of(error, whole=True)}).",
                "Expected intact Parquet files.",
                f"Restore '{file.name}'.",
            ) from error
        data = value.get(_BYTES) if isinstance(value, dict) else value
        if data is None:  # a path without bytes is not followed: it may lead anywhere
            raise ImageError(
                f"Row {sample} of '{self.spec}' has no bytes.",
                "Expected an encoded image in every row.",
                "Write the bytes into the file, or leave the row out.",
            )
        return data

    def _paths(self, schema: pa.Schema) -> list[str] | None:
        """Return the paths of all rows, if there are any and they are all different."""
        image = schema.field(self._column)
        if pa.types.is_struct(image.type) and image.type.get_field_index(_PATH) >= 0:
            paths = self._values(f"{self._column}.{_PATH}")
        elif _PATH in schema.names:
            paths = self._values(_PATH)
        else:
            return None
        is_unique = all(isinstance(p, str) and p for p in paths) and len(set(paths)) == len(paths)
        return paths if is_unique else None

    def _values(self, column: str) -> list[Any]:
        def read(file: _File) -> list[Any]:
            return file.call(lambda parquet: _plain(parquet.read([column]).column(0)))

        return [value for values in self._of_each(read, self._files) for value in values]


def _schema(parquet: pq.ParquetFile) -> pa.Schema:
    schema = parquet.schema_arrow
    refuse_repeated_columns(schema.names)
    return schema


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column, or of the only field of a column of structs."""
    if pa.types.is_struct(column.type):
        return [next(iter(value.values())) if value else None for value in column.to_pylist()]
    return column.to_pylist()


class _File:
    """A Parquet file of which the most recently used row groups stay in memory; thread-safe."""

    def __init__(self, source: SourceFile) -> None:
        self.name, self._source = source.name, source
        self._lock = threading.Lock()  # a Parquet reader serves one thread at a time
        self._group_lock = threading.Lock()  # rows in memory are given while others are read
        self._parquet: pq.ParquetFile | None = None
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()
        meta = self.call(lambda parquet: parquet.metadata)
        self.schema: pa.Schema = self.call(_schema)
        self.groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        self._starts = [0, *accumulate(self.groups)][:-1]

    def __reduce__(self) -> tuple[type[_File], tuple[SourceFile]]:
        """Open the file again in another process."""
        return _File, (self._source,)

    def call(self, function: Callable[[pq.ParquetFile], Any]) -> Any:
        """Return what a function returns of the opened file.

        Raises
        ------
        DataError
            If the file is missing or damaged.
        """
        with self._lock:
            try:
                if self._parquet is None:
                    self._parquet = pq.ParquetFile(self._source.open(), pre_buffer=True)
                return function(self._parquet)
            except SemlensError:
                raise
            except Exception as error:  # the reader raises many types for damaged bytes
                raise DataError(
                    f"'{self.name}' cannot be read ({reason_of(error, whole=True)}).",
                    "Expected an intact Parquet file.",
                    "Restore it, or leave it out.",
                ) from error

    def value(self, column: str, row: int) -> Any:
        """Return a value of a column as a plain object."""
        group = bisect.bisect_right(self._starts, row) - 1
        values = self._cached((column, group)) or self._load((column, group))
        return values[row - self._starts[group]].as_py()

    def _load(self, key: tuple[str, int]) -> pa.ChunkedArray:
        """Read a row group, unless another thread has read it by now."""
        column, group = key
        with self._lock:
            values = self._cached(key)
            if values is None:
                assert self._parquet is not None  # noqa: S101  # opened for the metadata
                table = self._parquet.read_row_group(group, [column], use_threads=False)
                values = table.column(0)
                self._cached(key, values)
            return values

    def _cached(
        self, key: tuple[str, int], values: pa.ChunkedArray | None = None
    ) -> pa.ChunkedArray | None:
        """Return a row group that is in memory, or None; keep it if it is given."""
        with self._group_lock:
            values = self._groups.get(key, values)
            if values is not None:
                self._groups[key] = values
                self._groups.move_to_end(key)
                while len(self._groups) > _MAX_GROUPS:
                    self._groups.popitem(last=False)
            return values


def _image_column(schema: pa.Schema, column: str | None, spec: str) -> str:
    """Return the name of the column of images."""
    images = [field.name for field in schema if _holds_images(field.type)]
    if column is None and len(images) == 1:
        return images[0]
    if column in images:
        return str(column)
    found = f"no column '{column}' of images" if column else f"{len(images)} columns of bytes"
    raise DataError(
        f"'{spec}' has {found} ({', '.join(images) or 'none'}).",
        "Expected one, of encoded images or of structs {bytes, path}.",
        "Pass ParquetImages(pattern, column=...) one of those named, or write such a column.",
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index(_BYTES)
        return index >= 0 and _holds_images(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(schema: pa.Schema, label: str) -> Sequence[str] | None:
    """Return the class names that Hugging Face saves in the metadata of a file."""
    try:
        info = parse_json((schema.metadata or {})[b"huggingface"])
        names = info["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and names else None
