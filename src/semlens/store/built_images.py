"""The images that a database was built from: read one by one, each verified by its digest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from semlens.data.images import Images
from semlens.data.load import check_spec
from semlens.data.pixels import content_digest
from semlens.errors import DataError, StaleError

if TYPE_CHECKING:
    from semlens.store.reader import Database


class BuiltImages(Images):
    """A database's images: only those that are read are looked for and hashed.

    Parameters
    ----------
    given
        The images, or a SPEC of where they are now; by default where the database says.

    Raises
    ------
    DataError
        If there is no such data, or ``given`` holds other samples or another order.
    """

    def __init__(self, database: Database, given: Images | str | Path | None = None) -> None:
        self._database = database
        self._given = given if isinstance(given, Images) else None
        if isinstance(given, Images):
            self.spec = given.spec
            self._check(given)
        else:
            self.spec = str(given or database.manifest.data.spec)
            check_spec(self.spec)

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
        if self._given is None:
            return self._database.original(sample, self.spec)
        known, content = self._database.sample(sample), self._given.content(sample)
        if content_digest(content) != known.sha256:
            raise StaleError(
                f"The image '{known.path}' of '{self.spec}' has changed since the build.",
                "Expected the image that the examples were cut from.",
                "Restore it, or build a new database.",
            )
        return content

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
