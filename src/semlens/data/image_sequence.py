"""Images of a Python list or any map-style dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from semlens.data.class_mapping import name_targets
from semlens.data.images import Images, numbered_ids, read_file, upright_rgb
from semlens.errors import DataError
from semlens.regular_files import user_path


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
        Each item is a Pillow image, a path, encoded bytes or a uint8 array [H W], [H W 3] or
        [H W 4], or a tuple whose first entry is one of these and whose second entry is the
        sample's class, as an integer or a text.
    classes
        Class names for integer targets. By default the ``classes`` attribute of the dataset.
    name
        Name of this data in the database.

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
                "The dataset is empty.", "Expected at least one image.", "Pass at least one image."
            )
        _raw_image(items[0], 0)
        self._items = items
        self.spec = f"python:{name}"
        self.ids = numbered_ids(len(items))
        self.targets = _targets(items, classes, self.spec)

    def content(self, sample: int) -> bytes | Image.Image:
        """Return encoded bytes for a path or bytes, else the upright RGB image."""
        item = _raw_image(self._items[sample], sample)
        if isinstance(item, bytes):
            return item
        if isinstance(item, str | Path):
            return read_file(user_path(item))
        if isinstance(item, np.ndarray):
            item = Image.fromarray(item[:, :, 0] if item.shape[2:] == (1,) else item)
        return upright_rgb(item, self.ids[sample])


def _raw_image(item: Any, sample: int) -> Any:
    """Return the image of an item, or raise an error that describes the item."""
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, Image.Image | bytes | str | Path):
        return item
    description = f"a {type(item).__name__}"
    shape = getattr(item, "shape", None)
    if shape is not None:
        description += f" of {getattr(item, 'dtype', '?')} and shape {list(shape)}"
    if isinstance(item, np.ndarray) and item.dtype == np.uint8:
        if item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (1, 3, 4)):
            return item
    remedy = "Remove the transform of the dataset: semlens applies the model's preprocessing."
    if isinstance(item, dict):
        remedy = "Use semlens.data.huggingface.HuggingFaceImages for a Hugging Face dataset."
    raise DataError(
        f"Item {sample} is {description}.",
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
