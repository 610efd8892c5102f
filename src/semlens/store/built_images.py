"""The images that a database was built from: read one by one, each verified by its digest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from semlens.data.images import Images, read_file
from semlens.data.load import is_saved, load_hugging_face
from semlens.data.pixels import content_digest, decode
from semlens.errors import DataError, ImageError, StaleError
from semlens.store.once import once

if TYPE_CHECKING:
    from semlens.data.huggingface import HuggingFaceImages
    from semlens.store.reader import Database

_REMEDY = "Put it back, or say where the data is now."


class BuiltImages(Images):
    """A database's images: only those that are read are looked for and hashed.

    A folder is not listed: an image is read by its path. A Hugging Face data set is opened with
    the first image. Nothing is downloaded. Safe in threads.

    Parameters
    ----------
    given
        The images, or a SPEC of where they are now; by default where the database says.

    Raises
    ------
    DataError
        If ``given`` holds other samples or another order.
    """

    def __init__(self, database: Database, given: Images | str | Path | None = None) -> None:
        self._database = database
        self._given = given if isinstance(given, Images) else None
        self.spec = str(given or database.manifest.data.spec)
        if isinstance(given, Images):
            self.spec = given.spec
            self._check(given)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._database.manifest.samples

    @property
    def ids(self) -> Sequence[str]:  # type: ignore[override]
        """Their paths; read when they are asked for, since there may be millions."""
        return self._database.samples["path"].tolist()

    @property
    def targets(self) -> Sequence[str] | None:  # type: ignore[override]
        """The class name of each sample, as at the build."""
        return self._database.samples["target"].tolist()

    def content(self, sample: int) -> bytes | Image.Image:
        """Return what a sample holds.

        Raises
        ------
        StaleError
            If it has changed since the build.
        DataError
            If it is not there any more.
        """
        known = self._database.sample(sample)
        try:
            content = self._content(sample, known.path)
        except ImageError as error:
            raise DataError(
                f"The image '{known.path}' is not in '{self.spec}' any more: {error.value}",
                "Expected the data that the database was built from.",
                _REMEDY,
            ) from error
        if content_digest(content) != known.sha256:
            raise StaleError(
                f"The image '{known.path}' of '{self.spec}' has changed since the build.",
                "Expected the very image that the examples were cut from.",
                "Restore it, or build a new database.",
            )
        return content

    def read(self, sample: int) -> Image.Image:
        """Return a sample as upright RGB; see :meth:`content`."""
        content = self.content(sample)
        if isinstance(content, bytes):
            return decode(content, self._database.sample(sample).path)
        return content

    def _content(self, sample: int, path: str) -> bytes | Image.Image:
        if self._given is not None:
            return self._given.content(sample)
        root = Path(self.spec).expanduser()
        if root.is_dir() and not is_saved(root):
            return read_file(root / path, path)
        return self._rows.content(sample)

    @once
    def _rows(self) -> HuggingFaceImages:
        if not (self.spec.startswith("datasets/") or Path(self.spec).expanduser().is_dir()):
            raise DataError(
                f"The data '{self.spec}' is not on this machine.",
                "Expected the folder or data set that the database was built from.",
                _REMEDY,
            )
        return load_hugging_face(self.spec, offline=True)

    def digest(self, sample: int) -> str:
        """Return the SHA-256 of a sample, which is read to verify it."""
        self.content(sample)
        return self._database.sample(sample).sha256

    def _check(self, given: Images) -> None:
        if list(given.ids) != list(self.ids):
            raise DataError(
                f"'{given.spec}' holds {len(given)} samples, not those of the database.",
                f"Expected the {len(self)} images of '{self._database.manifest.data.spec}'.",
                "Give the images that the database was built from, in their order.",
            )
