"""Images of a Hugging Face data set that is streamed: read in order, never stored."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from semlens.data.class_mapping import name_targets
from semlens.data.huggingface import cell_bytes, hugging_face_columns, load_split
from semlens.data.images import Images, numbered_ids
from semlens.errors import DataError, ImageError

_WINDOW = 512
"""Rows that stay in memory: threads read ahead, and a few rows may be asked for again."""


class StreamedImages(Images):
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
        import datasets

        self.spec = spec
        if dataset.features is None:
            dataset = self._try(dataset._resolve_features)
        columns = hugging_face_columns(dataset.features, spec, column, target_column)
        self._column, target = columns
        raw = dataset.cast_column(self._column, datasets.Image(decode=False))
        # counted without the images, where the format allows it
        listed = raw.select_columns([target or self._column])
        labels = self._try(lambda: [row[target] if target else None for row in listed])
        if not labels:
            raise DataError(
                f"'{spec}' has no rows.", "Expected at least one image.", "Choose another split."
            )
        self.ids = numbered_ids(len(labels))
        if target is not None:
            feature = dataset.features[target]
            names = feature.names if isinstance(feature, datasets.ClassLabel) else None
            self.targets = name_targets(labels, names, spec)
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

        dataset, spec = load_split(lambda: datasets.load_dataset(name, streaming=True), name, split)
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
        if not 0 <= sample < len(self):
            raise ImageError(
                f"'{self.spec}' has no row {sample}.",
                f"It has {len(self)} rows.",
                "Pass the data set that the row number belongs to.",
            )
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
