"""Images of a Hugging Face dataset, from the hub or from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semlens.data.class_mapping import name_targets
from semlens.data.images import Images, numbered_ids, read_file
from semlens.errors import DataError, ImageError
from semlens.regular_files import is_file, is_folder


class HuggingFaceImages(Images):
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
        import datasets

        features = dataset.features
        column, target_column = hugging_face_columns(features, spec, column, target_column)
        if len(dataset) == 0:
            raise DataError(
                f"'{spec}' has no rows.", "Expected at least one image.", "Choose another split."
            )
        self.spec = spec
        self._rows = dataset.cast_column(column, datasets.Image(decode=False)).select_columns(
            [column]
        )
        self._column = column
        self.ids = numbered_ids(len(dataset))
        if target_column is not None:
            feature = features[target_column]
            values = dataset[target_column]
            names = feature.names if isinstance(feature, datasets.ClassLabel) else None
            self.targets = name_targets(values, names, spec)

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
                return datasets.load_dataset(name)

        return cls(*load_split(load, name, split))

    def content(self, sample: int) -> bytes:
        """Return the row's encoded image.

        Raises
        ------
        ImageError
            If the row has no image.
        """
        if not 0 <= sample < len(self):
            raise ImageError(
                f"'{self.spec}' has no row {sample}.",
                f"It has {len(self)} rows.",
                "Pass the dataset that the row number belongs to.",
            )
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
