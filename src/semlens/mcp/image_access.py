"""Which images an agent may name: samples of a database, and files of the folder it was allowed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow.compute as pc
from PIL import Image

from semlens.data.image_folder import ImageFolder
from semlens.data.images import Images, decode
from semlens.errors import DataError, shortened
from semlens.regular_files import is_file, is_folder, read_bytes, user_path
from semlens.settings import setting
from semlens.store import file_names
from semlens.store.reader import Database

ImageName = Annotated[
    int | str,
    setting("A sample of the database, by number or path, or a file of the allowed folder."),
]


@dataclass(frozen=True)
class ImageAccess:
    """The images that an agent may name.

    Parameters
    ----------
    folder
        The folder of the user's images, without links; None if only samples are allowed.
    """

    folder: Path | None = None

    @classmethod
    def of(cls, folder: str | Path | None) -> ImageAccess:
        """Allow a folder and everything below it.

        Raises
        ------
        DataError
            If it is not a folder.
        """
        if folder is None:
            return cls()
        if not is_folder(user_path(folder)):
            raise DataError(
                f"'{folder}' is not a folder.",
                "Expected the folder of the images that agents may read.",
                "Check the path.",
            )
        return cls(_real(user_path(folder)))

    def listed(self) -> tuple[str, ...]:
        """Return the relative paths of the folder's images, without links that leave it."""
        if self.folder is None:
            return ()
        try:
            found = ImageFolder(self.folder).ids
        except DataError:  # still empty
            return ()
        return tuple(
            name for name in found if _real(self.folder / name).is_relative_to(self.folder)
        )

    def read(self, database: Database, image: int | str) -> tuple[Image.Image, str]:
        """Return an image, upright and in RGB, and its name.

        Raises
        ------
        DataError
            If it is neither a sample nor a file of the folder.
        ImageError, StaleError
            If it cannot be decoded, or is a sample that has changed since the build.
        """
        sample = self.sample(database, image)
        if sample is not None:
            return database.original(sample), database.sample(sample).path
        path = self._allowed(str(image))
        if not is_file(path):
            raise self._unknown(str(image))
        try:
            return decode(read_bytes(path), str(image)), str(image)
        except OSError as error:
            raise self._unknown(str(image)) from error

    def sample(self, database: Database, image: int | str) -> int | None:
        """Return the number of a sample that is given by number or path; None for another path.

        Raises
        ------
        DataError
            If there is no sample of this number.
        """
        if isinstance(image, str) and not (image.isascii() and image.isdecimal()):
            paths = database.files.table(file_names.SAMPLES, ["path"])["path"]
            number = pc.index(paths, image).as_py()  # pyright: ignore[reportAttributeAccessIssue]
            return None if number < 0 else number
        number, count = int(str(image)[:12]), database.manifest.samples
        if not 0 <= number < count:
            raise DataError(
                f"The database has no sample {shortened(image, 40)}.",
                f"It has the samples 0 to {count - 1}.",
                "Choose one of them.",
            )
        return number

    def group(
        self, database: Database, images: str | Sequence[int | str]
    ) -> Images | list[int] | list[Image.Image]:
        """Return a group of images as ``contrast`` takes it.

        Parameters
        ----------
        images
            A list of samples or files, or the path of a folder below the allowed one.
        """
        if isinstance(images, str):
            return self._subfolder(images)
        samples = [self.sample(database, image) for image in images]
        numbers = [sample for sample in samples if sample is not None]
        if len(numbers) == len(samples):
            return numbers
        return [self.read(database, image)[0] for image in images]

    def _subfolder(self, name: str) -> ImageFolder:
        path = self._allowed(name)
        if not is_folder(path):
            raise self._unknown(name)
        found = ImageFolder(path)
        for file in found.ids:  # it follows links
            self._allowed(str(path / file))
        return found

    def _allowed(self, name: str) -> Path:
        """Return a path below the folder without links and ``..``; it need not exist.

        The refusal does not tell whether there is such a file elsewhere.
        """
        if self.folder is None:
            raise DataError(
                f"'{shortened(name)}' is not a sample of the database.",
                "Expected a sample by number or path: the user allowed no other images.",
                "Choose a sample. For other images, the user has to start the server with a folder "
                "('semlens mcp DB --images FOLDER').",
            )
        try:
            path = _real(self.folder / name)
        except ValueError as error:  # NUL
            raise self._unknown(name) from error
        if not path.is_relative_to(self.folder):
            raise DataError(
                f"'{shortened(name)}' is outside the folder of images.",
                "Expected a file of the folder that the user allowed, without links that leave it.",
                "Choose another image.",
            )
        return path

    def _unknown(self, name: str) -> DataError:
        return DataError(
            f"There is no image '{shortened(name)}'.",
            "Expected a sample of the database by number or path, or a file or folder of the "
            "folder of images, by its path there.",
            "Correct the path; the tool 'overview' lists some of the images.",
        )


def _real(path: Path) -> Path:
    """Return a path without links and ``..``; pathlib raises an error for links in a circle."""
    return Path(os.path.realpath(path))
