"""Images that are already in Python: a list, or any map-style data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from semlens.data.images import Images
from semlens.data.pixels import decode, pixels_digest, upright_rgb
from semlens.errors import DataError, ImageError


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
        Each item is a Pillow image, a path, encoded bytes or a uint8 array [H W] or [H W 3],
        or a tuple that starts with one; a second entry that is a whole number or a text is
        the sample's class.
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
        self._items = items
        self.spec = f"python:{name}"
        width = len(str(len(items) - 1))
        self.ids = [f"{i:0{width}d}" for i in range(len(items))]
        self._classes = classes if classes is not None else getattr(items, "classes", None)
        self.targets = self._targets()

    def read(self, sample: int) -> Image.Image:
        """Return the item as upright RGB."""
        item = self._image(sample)
        name = self.ids[sample]
        if isinstance(item, Image.Image):
            return upright_rgb(item, name)
        if isinstance(item, bytes):
            return decode(item, name)
        return Image.fromarray(item).convert("RGB")

    def digest(self, sample: int) -> str:
        """Return the SHA-256 of the encoded bytes, or of the pixels."""
        item = self._image(sample)
        if isinstance(item, bytes):
            return hashlib.sha256(item).hexdigest()
        return pixels_digest(item if isinstance(item, Image.Image) else Image.fromarray(item))

    def _image(self, sample: int) -> Image.Image | bytes | np.ndarray:
        item = self._items[sample]
        if isinstance(item, tuple | list):
            item = item[0]
        if isinstance(item, str | Path):
            path = Path(item)
            try:
                return path.read_bytes()
            except OSError as error:
                raise ImageError(
                    f"'{path}' cannot be read ({error.strerror}).",
                    "Expected a readable file.",
                    "Check the path.",
                ) from error
        if isinstance(item, Image.Image | bytes):
            return item
        if isinstance(item, np.ndarray) and item.dtype == np.uint8:
            return item
        raise DataError(
            f"Item {sample} is a {type(item).__name__}.",
            "Expected a raw image: Pillow, path, bytes or a uint8 array.",
            "Remove the data set's transform: semlens applies the model's own preprocessing.",
        )

    def _targets(self) -> list[str] | None:
        labels = getattr(self._items, "targets", None)
        if labels is None or len(labels) != len(self):
            first = self._items[0]
            if not (isinstance(first, tuple | list) and len(first) > 1):
                return None
            labels = [self._items[i][1] for i in range(len(self))]
        if not all(isinstance(label, int | str | np.integer) for label in labels):
            return None
        names = self._classes
        return [
            label
            if isinstance(label, str)
            else (names[int(label)] if names is not None else str(int(label)))
            for label in labels
        ]
