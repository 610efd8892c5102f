"""A Hugging Face data set, from the hub or from disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semlens.data.class_mapping import name_targets
from semlens.data.images import Images, numbered, read_file
from semlens.errors import DataError, ImageError


class HuggingFaceImages(Images):
    """One split of a Hugging Face data set, read by its image column.

    Parameters
    ----------
    dataset
        A ``datasets.Dataset`` with an ``Image`` column.
    spec
        How to load it again.
    column
        The image column; by default the only one of type ``Image``.
    target_column
        The class column; by default the only one of type ``ClassLabel``, if there is one.

    Raises
    ------
    DataError
        If there is no image column, more than one, or no row.
    """

    def __init__(
        self,
        dataset: Any,
        spec: str = "python:datasets",
        column: str | None = None,
        target_column: str | None = None,
    ) -> None:
        import datasets

        features = dataset.features
        for name in (column, target_column):
            if name is not None and name not in features:
                raise DataError(
                    f"'{spec}' has no column '{name}'.",
                    f"It has {', '.join(features)}.",
                    "Give one of them.",
                )
        images = [k for k, v in features.items() if isinstance(v, datasets.Image)]
        if column is None and len(images) != 1:
            raise DataError(
                f"'{spec}' has {len(images)} image columns ({', '.join(images) or 'none'}).",
                "Expected exactly one.",
                "Give column=, or cast the column to datasets.Image().",
            )
        column = column or images[0]
        if len(dataset) == 0:
            raise DataError(
                f"'{spec}' has no row.", "Expected at least one image.", "Choose another split."
            )
        labels = [k for k, v in features.items() if isinstance(v, datasets.ClassLabel)]
        target_column = target_column or (labels[0] if len(labels) == 1 else None)
        self.spec = spec
        self._rows = dataset.cast_column(column, datasets.Image(decode=False)).select_columns(
            [column]
        )
        self._column = column
        self.ids = numbered(len(dataset))
        if target_column is not None:
            feature = features[target_column]
            values = dataset[target_column]
            named = isinstance(feature, datasets.ClassLabel)
            self.targets = name_targets(values, feature.names if named else None, spec)

    @classmethod
    def load(
        cls, name: str, split: str | None = None, *, offline: bool = False
    ) -> HuggingFaceImages:
        """Load a data set from disk (``save_to_disk``) or by its hub id.

        With ``offline`` the hub is not asked: what it gave before is taken.
        """
        import datasets

        spec = f"datasets/{name}" + (f":{split}" if split else "")
        try:
            if Path(name).exists():
                loaded = datasets.load_from_disk(name)
            else:
                with _offline(offline):
                    loaded = datasets.load_dataset(name)
        except Exception as error:  # every kind of network, script and format error
            raise DataError(
                f"The data set '{name}' cannot be loaded ({error}).",
                "Expected a hub id or a folder written by save_to_disk.",
                "Check the name and the network, or save it to disk first.",
            ) from error
        if isinstance(loaded, datasets.DatasetDict):
            splits = [str(name) for name in loaded]
            if split is None and len(splits) == 1:
                split = splits[0]
            if split not in loaded:
                met = f"Split '{split}' is not in '{name}'." if split else f"'{name}' has splits."
                raise DataError(
                    met, f"It has {', '.join(splits)}.", f"Name one: datasets/{name}:{splits[0]}."
                )
            loaded = loaded[split]
        elif split is not None:
            raise DataError(
                f"'{name}' has no splits, so no '{split}'.",
                "It is one data set.",
                f"Give datasets/{name}.",
            )
        return cls(loaded, spec)

    def content(self, sample: int) -> bytes:
        """Return the row's encoded image.

        Raises
        ------
        ImageError
            If there is none.
        """
        if not 0 <= sample < len(self):
            raise ImageError(
                f"'{self.spec}' has no row {sample}.",
                f"It has {len(self)} rows.",
                "Give the data set that the number is of.",
            )
        cell = self._rows[sample][self._column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ImageError(f"Row {sample} has no image.", "Expected one.", "Filter the data set.")
        return cell["bytes"] if cell["bytes"] is not None else read_file(Path(cell["path"]))


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Keep ``datasets`` from asking the hub; it has no argument for that."""
    from datasets import config

    before: bool = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
