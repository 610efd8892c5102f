"""Images that are already in Python: a list, or any map-style data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from semlens.data.class_mapping import name_targets
from semlens.data.images import Images, numbered, read_file, upright_rgb
from semlens.errors import DataError


@runtime_checkable
class MapStyle(Protocol):
    """Anything with a length and integer indexing, such as a torchvision data set."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return an image, or a tuple whose first entry is one."""
        ...


class ImageSequence(Images):
    """A list or map-style data set of raw images.

    Parameters
    ----------
    items
        Each item is a Pillow image, a path, encoded bytes or a uint8 array [H W], [H W 3] or
        [H W 4], or a tuple that starts with one; a second entry that is a whole number or a
        text is the sample's class.
    classes
        Class names, by which whole-number targets are named. Without it a data set's own
        ``classes`` attribute is taken.
    name
        What the database calls this data.

    Raises
    ------
    DataError
        If there are no items, or they are preprocessed tensors.
    """

    def __init__(
        self, items: MapStyle, *, classes: Sequence[str] | None = None, name: str = "python"
    ) -> None:
        if len(items) == 0:
            raise DataError(
                "The data set is empty.", "Expected at least one image.", "Give it some images."
            )
        _check(items[0], 0)
        self._items = items
        self.spec = f"python:{name}"
        self.ids = numbered(len(items))
        self.targets = _targets(items, classes, self.spec)

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the encoded bytes of a file or of bytes, or else the upright RGB image."""
        item = _check(self._items[sample], sample)
        if isinstance(item, bytes):
            return item
        if isinstance(item, str | Path):
            return read_file(Path(item).expanduser())
        if isinstance(item, np.ndarray):
            item = Image.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
        return upright_rgb(item, self.ids[sample])


def _check(item: Any, sample: int) -> Any:
    """Return the image of an item, or raise the error that says what it is instead."""
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, Image.Image | bytes | str | Path):
        return item
    met = f"a {type(item).__name__}"
    shape = getattr(item, "shape", None)
    if shape is not None:
        met += f" of {getattr(item, 'dtype', '?')} and shape {list(shape)}"
    if isinstance(item, np.ndarray) and item.dtype == np.uint8:
        if item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (1, 3, 4)):
            return item
    remedy = "Remove the data set's transform: semlens applies the model's own preprocessing."
    if isinstance(item, dict):
        remedy = "Use semlens.data.huggingface.HuggingFaceImages for a Hugging Face data set."
    raise DataError(
        f"Item {sample} is {met}.",
        "Expected a raw image: Pillow, path, bytes or a uint8 array [H W] or [H W 3].",
        remedy,
    )


def _targets(items: Any, classes: Sequence[str] | None, spec: str) -> list[str] | None:
    labels = _labels(items)
    if labels is None:
        return None
    labels = [label.item() if hasattr(label, "item") else label for label in labels]
    if not all(label is None or isinstance(label, int | str) for label in labels):
        return None
    return name_targets(labels, classes if classes is not None else _names(items), spec)


def _labels(items: Any) -> list[Any] | None:
    """Return the label of every item, without reading images where the data set lists them."""
    for name in ("targets", "labels"):
        labels: Any = getattr(items, name, None)
        if hasattr(labels, "__len__") and len(labels) == len(items):
            return list(labels)
    inner, indices = getattr(items, "dataset", None), getattr(items, "indices", None)
    if inner is not None and indices is not None:  # torch.utils.data.Subset
        labels = _labels(inner)
        return None if labels is None else [labels[i] for i in indices]
    first = items[0]
    if not (isinstance(first, tuple | list) and len(first) > 1):
        return None
    return [items[i][1] for i in range(len(items))]


def _names(items: Any) -> Sequence[Any] | None:
    """Return the data set's class names; WordNet ids first, for they are never ambiguous."""
    for name in ("wnids", "classes"):
        names = getattr(items, name, None)
        if isinstance(names, tuple | list):
            return names
    return _names(items.dataset) if hasattr(items, "dataset") else None
