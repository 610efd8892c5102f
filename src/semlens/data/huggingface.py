"""Images of a Hugging Face dataset: from the hub or from disk, or streamed and never stored."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semlens.data.class_mapping import name_targets
from semlens.data.images import Images, numbered_ids, read_file
from semlens.errors import DataError, ImageError
from semlens.regular_files import is_file, is_folder


class _ImageColumn(Images):
    """An image column of a data set that Hugging Face's library reads, and its classes."""

    def _choose(
        self, dataset: Any, column: str | None, target_column: str | None
    ) -> tuple[Any, str | None]:
        """Set the image column; return the data set with images as bytes, and the class column."""
        import datasets

        self._column, target = hugging_face_columns(
            dataset.features, self.spec, column, target_column
        )
        return dataset.cast_column(self._column, datasets.Image(decode=False)), target

    def _label(self, count: int, feature: Any, labels: Iterable[Any]) -> None:
        """Set ids and classes of so many rows; without a ``feature`` there are no classes."""
        if count == 0:
            raise DataError(
                f"'{self.spec}' has no rows.",
                "Expected at least one image.",
                "Choose another split.",
            )
        self.ids = numbered_ids(count)
        if feature is not None:
            self.targets = name_targets(labels, getattr(feature, "names", None), self.spec)

    def _check_row(self, sample: int) -> None:
        if not 0 <= sample < len(self):
            raise ImageError(
                f"'{self.spec}' has no row {sample}.",
                f"It has {len(self)} rows.",
                "Pass the data set that the row number belongs to.",
            )


class HuggingFaceImages(_ImageColumn):
    """The image column of one split of a Hugging Face dataset.

    Parameters
    ----------
    dataset
        A ``datasets.Dataset`` with an ``Image`` column.
    spec
        SPEC that loads it again.
    column
        Image column; by default the only column of type ``Image``.
    target_column
        Class column; by default the only column of type ``ClassLabel``, if any.

    Raises
    ------
    DataError
        If there is no image column, more than one, or no rows.
    """

    def __init__(
        self,
        dataset: Any,
        spec: str = "python:datasets",
        column: str | None = None,
        target_column: str | None = None,
    ) -> None:
        self.spec = spec
        raw, target = self._choose(dataset, column, target_column)
        labels = dataset[target] if target is not None else ()
        self._label(len(dataset), target and dataset.features[target], labels)
        self._rows = raw.select_columns([self._column])

    @classmethod
    def load(
        cls, name: str, split: str | None = None, *, offline: bool = False
    ) -> HuggingFaceImages:
        """Load a dataset from disk (``save_to_disk``) or by its hub id.

        With ``offline``, only the local cache of the hub is used.
        """
        import datasets

        def load() -> Any:
            if is_file(name) or is_folder(name):
                return datasets.load_from_disk(name)
            with _offline(offline):
                return datasets.load_dataset(name, **_no_code())

        return cls(*load_split(load, name, split))

    def content(self, sample: int) -> bytes:
        """Return the row's encoded image.

        Raises
        ------
        ImageError
            If the row has no image.
        """
        self._check_row(sample)
        return cell_bytes(self._rows[sample][self._column], sample)


def load_split(load: Callable[[], Any], name: str, split: str | None) -> tuple[Any, str]:
    """Return one split of a data set, and the SPEC that loads it again.

    Raises
    ------
    DataError
        If the data set cannot be loaded, or the split does not exist or must be chosen.
    """
    try:
        loaded = load()
    except Exception as error:  # network, script and format errors of many types
        raise DataError(
            f"Cannot load the dataset '{name}' ({error}).",
            "Expected a hub id or a folder written by save_to_disk.",
            "Check the name and the network, or save it to disk first.",
        ) from error
    spec = f"datasets/{name}" + (f":{split}" if split else "")
    if isinstance(loaded, dict):
        splits = [str(name) for name in loaded]
        if split is None and len(splits) == 1:
            split = splits[0]
        if split not in loaded:
            value = f"Unknown split '{split}' of '{name}'." if split else f"'{name}' has splits."
            raise DataError(
                value,
                f"The splits are {', '.join(splits)}.",
                f"Choose one, such as datasets/{name}:{splits[0]}.",
            )
        return loaded[split], spec
    if split is not None:
        raise DataError(
            f"'{name}' has no split '{split}'.",
            "It is a single dataset without splits.",
            f"Use datasets/{name}.",
        )
    return loaded, spec


def hugging_face_columns(
    features: Any, spec: str, column: str | None, target_column: str | None
) -> tuple[str, str | None]:
    """Return the image column and the class column of a data set.

    Raises
    ------
    DataError
        If there is no such column, or not exactly one image column.
    """
    import datasets

    for name in (column, target_column):
        if name is not None and name not in features:
            raise DataError(
                f"'{spec}' has no column '{name}'.",
                f"It has {', '.join(features)}.",
                "Choose one of these columns.",
            )
    images = [k for k, v in features.items() if isinstance(v, datasets.Image)]
    if column is None and len(images) != 1:
        raise DataError(
            f"'{spec}' has {len(images)} image columns ({', '.join(images) or 'none'}).",
            "Expected exactly one.",
            "Pass column=, or cast the column to datasets.Image().",
        )
    labels = [k for k, v in features.items() if isinstance(v, datasets.ClassLabel)]
    return column or images[0], target_column or (labels[0] if len(labels) == 1 else None)


def cell_bytes(cell: Any, row: int) -> bytes:
    """Return the encoded image of a cell of an image column that is not decoded.

    Raises
    ------
    ImageError
        If it has no image.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ImageError(f"Row {row} has no image.", "Expected one.", "Filter the dataset.")
    return cell["bytes"] if cell["bytes"] is not None else read_file(Path(cell["path"]))


@contextmanager
def _offline(enabled: bool) -> Iterator[None]:
    """Keep ``datasets`` from contacting the hub, for which it has no argument."""
    from datasets import config

    previous: bool = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = previous or enabled
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = previous


_WINDOW = 512
"""Rows that stay in memory: threads read ahead, and a few rows may be asked for again."""


class StreamedImages(_ImageColumn):
    """The image column of a ``datasets.IterableDataset``; thread-safe.

    The data set is read once to count its rows and to list its classes. A build then reads it
    from the start for each stage. A row before the last few hundred starts the stream again, so
    that looking at single images takes long.

    Parameters
    ----------
    dataset
        The data set, which must give the same rows in the same order each time.
    spec, column, target_column
        As for :class:`semlens.data.huggingface.HuggingFaceImages`.

    Raises
    ------
    DataError
        If there is no image column, more than one, or no rows, or it cannot be read.
    """

    def __init__(
        self,
        dataset: Any,
        spec: str = "python:datasets",
        column: str | None = None,
        target_column: str | None = None,
    ) -> None:
        self.spec = spec
        if dataset.features is None:
            dataset = self._try(dataset._resolve_features)
        raw, target = self._choose(dataset, column, target_column)
        # counted without the images, where the format allows it
        listed = raw.select_columns([target or self._column])
        labels = self._try(lambda: [row[target] if target else None for row in listed])
        self._label(len(labels), target and dataset.features[target], labels)
        self._rows = raw.select_columns([self._column])
        self._prepare()

    def _prepare(self) -> None:
        """Prepare the first reading."""
        self._lock = threading.Lock()
        self._stream: Iterator[Any] = iter(())
        self._next = len(self)  # row that the stream gives next: none
        self._window: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what cannot go to another process; there, the stream starts again."""
        left_out = ("_lock", "_stream", "_window", "_next")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore it in another process."""
        vars(self).update(state)
        self._prepare()

    @classmethod
    def load(cls, name: str, split: str | None = None) -> StreamedImages:
        """Stream a data set of the hub, or the files of a folder."""
        import datasets

        def load() -> Any:
            return datasets.load_dataset(name, streaming=True, **_no_code())

        dataset, spec = load_split(load, name, split)
        return cls(dataset, f"streaming:{spec}")

    def content(self, sample: int) -> bytes:
        """Return the row's encoded image.

        Raises
        ------
        ImageError
            If the row has no image.
        DataError
            If the stream breaks off, or has become shorter.
        """
        self._check_row(sample)
        with self._lock:
            if sample not in self._window:
                self._advance(sample)
            cell = self._window[sample]
        path = cell["path"] if cell and cell["bytes"] is None else None
        if path is None:
            return cell_bytes(cell, sample)
        return self._try(lambda: _read(path))

    def _advance(self, sample: int) -> None:
        """Read the stream up to a row."""
        if sample < self._next:
            self._stream, self._next = iter(self._rows), 0
            self._window.clear()
        while self._next <= sample:
            row = self._try(lambda: next(self._stream, None))
            if row is None:
                raise DataError(
                    f"'{self.spec}' ends after {self._next} rows.",
                    f"Expected the same {len(self)} rows each time it is read.",
                    "Use a data set that does not change.",
                )
            self._window[self._next] = row[self._column]
            self._next += 1
            while len(self._window) > _WINDOW:
                self._window.popitem(last=False)

    def _try(self, read: Callable[[], Any]) -> Any:
        """Call a function that reads the stream; network and format errors are of many types."""
        try:
            return read()
        except Exception as error:
            self._next = len(self.ids) if hasattr(self, "ids") else 0  # start again next time
            raise DataError(
                f"The stream of '{self.spec}' broke off ({error}).",
                "Expected a data set that can be read from start to end.",
                "Check the network, and run the same command again.",
            ) from error


def _read(path: str) -> bytes:
    """Return a file that a data set names, in the hub, an archive of it, or on this machine."""
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        return file.read()


def _no_code() -> dict[str, Any]:
    """Return the setting by which older versions of datasets never run code of a data set."""
    import datasets

    known = inspect.signature(datasets.load_dataset).parameters
    return {"trust_remote_code": False} if "trust_remote_code" in known else {}
