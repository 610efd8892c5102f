"""Single originals of a data set, without listing or hashing the others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from semlens.data.images import read_file
from semlens.data.load import is_saved, load_hugging_face
from semlens.data.pixels import content_digest, decode
from semlens.errors import DataError, ImageError, StaleError

if TYPE_CHECKING:
    from semlens.data.huggingface import HuggingFaceImages

_REMEDY = "Put it back, or say where the data is now."


class Originals:
    """The images of a data SPEC, one at a time; nothing is downloaded.

    A folder is not listed: an image is read by its path. A Hugging Face data set is opened
    with the first image. Safe in threads.

    Parameters
    ----------
    spec
        A folder, a saved Hugging Face data set, or ``datasets/ID[:SPLIT]``.
    """

    def __init__(self, spec: str | Path) -> None:
        self.spec = str(spec)
        self._lock = threading.Lock()
        self._images: HuggingFaceImages | None = None

    def read(self, sample: int, name: str, sha256: str) -> Image.Image:
        """Return an image as upright RGB.

        Parameters
        ----------
        sample, name
            Its number and its id in the data set.
        sha256
            Hash of its encoded bytes.

        Raises
        ------
        DataError
            If the data or the image is not there.
        StaleError
            If the image has changed.
        """
        data = self._encoded(sample, name)
        if content_digest(data) != sha256:
            raise StaleError(
                f"The image '{name}' of '{self.spec}' has changed since the build.",
                "Expected the very file that the examples were cut from.",
                "Restore it, or build a new database.",
            )
        return decode(data, name)

    def _encoded(self, sample: int, name: str) -> bytes:
        root = Path(self.spec).expanduser()
        try:
            if root.is_dir() and not is_saved(root):
                return read_file(root / name, name)
            return self._opened(root).content(sample)
        except ImageError as error:
            raise DataError(
                f"The image '{name}' is not in '{self.spec}' any more: {error.value}",
                "Expected the data that the database was built from.",
                _REMEDY,
            ) from error

    def _opened(self, root: Path) -> HuggingFaceImages:
        with self._lock:
            if self._images is None:
                if not (self.spec.startswith("datasets/") or root.is_dir()):
                    raise DataError(
                        f"The data '{self.spec}' is not on this machine.",
                        "Expected the folder or data set that the database was built from.",
                        _REMEDY,
                    )
                self._images = load_hugging_face(self.spec, offline=True)
            return self._images
