"""Images that Python code has: a list or a data set of pictures, arrays or tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from semlens.data.class_mapping import name_targets
from semlens.data.images import Images, numbered_ids
from semlens.data.pictures import (
    ArrayLike,
    ValueRange,
    described,
    encoded_or_upright,
    is_picture,
    may_be_one,
)
from semlens.errors import DataError, ImageError
from semlens.types import Layout


@runtime_checkable
class MapStyle(Protocol):
    """Anything with a length and integer indexing, such as a torchvision dataset."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return an image, or a tuple whose first entry is one."""
        ...


class ImageSequence(Images):
    """A list or map-style dataset of raw images.

    Parameters
    ----------
    items
        Each item is a Pillow image, a path, encoded bytes, or an array or tensor [h w], [h w c]
        or [c h w]; or a tuple whose first entry is one of these and whose second entry is the
        sample's class, as an integer or a text.
    classes
        Class names for integer targets. By default the ``classes`` attribute of the dataset.
    name
        Name of this data in the database.
    value_range, layout
        What the numbers and axes of arrays and tensors mean; see :func:`semlens.as_picture`.

    Raises
    ------
    DataError
        If there are no items, they cannot be indexed, or the first of them is no raw image.

    Examples
    --------
    >>> import numpy as np
    >>> images = ImageSequence(np.zeros((5, 3, 8, 6), np.float32), value_range=(0, 1))
    >>> len(images), images.read(0).size
    (5, (6, 8))
    """

    def __init__(
        self,
        items: MapStyle | Iterable[Any],
        *,
        classes: Sequence[str] | None = None,
        name: str = "python",
        value_range: ValueRange | None = None,
        layout: Layout = "auto",
    ) -> None:
        check_items(items)
        self._items: Any = items
        self._value_range = value_range
        self._layout: Layout = layout
        first = raw_item(self._items[0], 0)
        if isinstance(first, ArrayLike):
            try:
                self._content(first, "0")
            except ImageError as error:
                raise DataError(error.value, error.expected, error.remedy + _TRANSFORM) from error
        self.spec = f"python:{name}"
        self.ids = numbered_ids(len(self._items))
        self.targets = item_targets(items, classes, self.spec)

    def content(self, sample: int) -> bytes | Image.Image:
        """Return encoded bytes for a path or bytes, else the upright RGB image."""
        return self._content(raw_item(self._items[sample], sample), self.ids[sample])

    def _content(self, item: Any, name: str) -> bytes | Image.Image:
        return encoded_or_upright(item, name, self._value_range, self._layout)


_TRANSFORM = (
    " Remove the transform of a data set that prepares images for the model: semlens applies the "
    "model's preprocessing."
)


def check_items(items: Any) -> None:
    """Refuse what cannot be indexed, has no items, or is one image rather than several."""
    if hasattr(items, "collate_fn") and hasattr(items, "dataset"):
        raise DataError(
            f"The images are a {type(items).__name__}, which gives batches of what a model gets.",
            "Expected single images: a list, or a data set with a length and an index.",
            "Pass loader.dataset instead, without its transform. If its items are tensors, pass "
            "semlens.ImageSequence(loader.dataset, value_range=(black, white)).",
        )
    if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise DataError(
            f"The images are a {type(items).__name__}, without a length or an index.",
            "Expected a list, a data set with both, or a SPEC.",
            "Use semlens.data.huggingface.StreamedImages for a datasets.IterableDataset.",
        )
    if may_be_one(items):
        raise DataError(
            f"The images are {described(items)}, which may be one image.",
            "Expected several, such as an array [n h w c] or [n c h w], or a list.",
            "Pass a list: [image] for one image, list(images) for several grey ones.",
        )
    if len(items) == 0:
        raise DataError(
            "The dataset is empty.", "Expected at least one image.", "Pass at least one image."
        )


def raw_item(item: Any, sample: int) -> Any:
    """Return the image of an item, or raise an error that describes the item."""
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if is_picture(item):
        return item
    remedy = _TRANSFORM.strip()
    if isinstance(item, dict):
        remedy = "Use semlens.data.huggingface.HuggingFaceImages for a Hugging Face dataset."
    raise DataError(
        f"Item {sample} is {described(item)}.",
        "Expected a raw image: Pillow, path, bytes, an array or a tensor.",
        remedy,
    )


def item_targets(items: Any, classes: Sequence[str] | None, spec: str) -> list[str] | None:
    """Return the class name of each item of a data set, or None if it has none."""
    labels = _labels(items)
    if labels is None:
        return None
    labels = [
        label.item() if math.prod(getattr(label, "shape", (0,))) == 1 else label for label in labels
    ]
    if not all(label is None or isinstance(label, int | str) for label in labels):
        return None
    return name_targets(labels, classes if classes is not None else _class_names(items), spec)


def _labels(items: Any) -> list[Any] | None:
    """Return the label of every item, without reading images if the dataset lists them."""
    for name in ("targets", "labels"):
        labels: Any = getattr(items, name, None)
        if hasattr(labels, "__len__") and len(labels) == len(items):
            return list(labels)
    parent, indices = getattr(items, "dataset", None), getattr(items, "indices", None)
    if parent is not None and indices is not None:  # torch.utils.data.Subset
        labels = _labels(parent)
        return None if labels is None else [labels[i] for i in indices]
    first = items[0]
    if not (isinstance(first, tuple | list) and len(first) > 1):
        return None
    return [items[i][1] for i in range(len(items))]


def _class_names(items: Any) -> Sequence[Any] | None:
    """Return the class names of the dataset; WordNet ids if possible, since they are unique."""
    for name in ("wnids", "classes"):
        names = getattr(items, name, None)
        if isinstance(names, tuple | list):
            return names
    return _class_names(items.dataset) if hasattr(items, "dataset") else None
