"""The two groups of images of a contrast: folders, lists, a metadata column, or errors."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.documents import csv_rows, refuse_repeated_columns
from semlens.errors import DataError, nearest
from semlens.lenses.classes import class_name, class_samples, find_class, sample_numbers
from semlens.models.forward import predict
from semlens.regular_files import read_bytes, read_text, user_path
from semlens.settings import Remote
from semlens.store.reader import Database

LISTS = (".txt", ".csv", ".parquet")
"""Endings of files that list images of the database."""
PATH = "path"
"""The column of a table that names images, by their paths in the database."""
LEAST = 2
"""Images that a group must have."""

GroupLike = Images | str | Path | Sequence[Any]
REMOTE_SAMPLES = Remote(list[int], "image", help="Images of the database, by number.")
"""How a page or an agent gives a group of images."""


@dataclass(frozen=True)
class ImageGroup:
    """One group of images."""

    name: str
    images: Images
    samples: tuple[int, ...]
    """Which of the images."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    @property
    def ids(self) -> list[str]:
        """The images' paths without ending; empty for images without names."""
        if self.images.spec.startswith("python:"):
            return []
        ids = self.images.ids
        return [str(PurePosixPath(ids[sample]).with_suffix("")) for sample in self.samples]


def given_groups(
    database: Database, a: GroupLike | int | None, b: GroupLike | int | None
) -> tuple[ImageGroup, ImageGroup]:
    """Return the groups that are given; without ``b``, the database's other images.

    Raises
    ------
    DataError
        If a group is missing or too small, or a list names images that the database lacks.
    """
    if a is None:
        raise DataError(
            "There is no group of images.",
            "Expected two groups, or the class whose errors are to be explained.",
            "Give a and b, or errors='CLASS'.",
        )
    first = image_group(database, a, "a")
    if b is not None:
        return _checked(first, image_group(database, b, "b"))
    taken = set(first.samples) if first.images is database.images else set[int]()
    others = [sample for sample in readable_samples(database) if sample not in taken]
    return _checked(first, ImageGroup("other images", database.images, tuple(others)))


def metadata_groups(
    database: Database, table: str | Path | pd.DataFrame, column: str, a: Any, b: Any
) -> tuple[ImageGroup, ImageGroup]:
    """Return the database's images whose metadata have one value, and those with another.

    Parameters
    ----------
    table
        A column ``path`` with the images' paths in the database, and further columns.
    b
        None for all other values.

    Raises
    ------
    DataError
        If the table lacks the column or the values.
    """
    frame = table if isinstance(table, pd.DataFrame) else _read_table(Path(table))
    for name in (PATH, column):
        if name not in frame:
            raise DataError(
                f"The metadata have no column '{name}'.",
                f"Expected '{PATH}' and columns such as {', '.join(map(str, frame.columns[:8]))}.",
                "Choose one of them.",
            )
    values = frame[column].astype(str).to_numpy()
    members: list[ImageGroup] = []
    for value in (a, b):
        chosen = values != str(a) if value is None else values == str(value)
        if not np.any(chosen):
            raise DataError(
                f"No image has the value '{value}' in the column '{column}'.",
                f"Its values are {nearest(str(value), sorted(set(values)), 8)}.",
                "Choose one of them.",
            )
        name = f"{column} is {'not ' + str(a) if value is None else value}"
        paths = frame.loc[chosen, PATH].astype(str).tolist()
        members.append(_of_database(database, paths, name))
    return _checked(*members)


def error_groups(
    database: Database, target: int | str, at_most: int, batch_size: int
) -> tuple[ImageGroup, ImageGroup]:
    """Return a class's images that the model takes for another class, and those it gets right.

    Raises
    ------
    DataError
        If the model makes fewer than two errors on them, or fewer than two right predictions.
    """
    number = find_class(database, target)
    samples = class_samples(database, number, at_most, instead="give the groups by a and b")
    right = predict(database.model, database.images.read, samples.tolist(), batch_size) == number
    name = class_name(database, number)
    wrong, correct = samples[~right].tolist(), samples[right].tolist()
    if min(len(wrong), len(correct)) < LEAST:
        raise DataError(
            f"The model gets {len(correct)} of {len(samples)} images of '{name}' right.",
            f"Expected at least {LEAST} errors and {LEAST} right predictions.",
            "Choose another class, or give the groups by a and b.",
        )
    return (
        ImageGroup(f"errors on {name}", database.images, tuple(wrong)),
        ImageGroup(f"correct {name}", database.images, tuple(correct)),
    )


def pair_blocks(first: ImageGroup, second: ImageGroup) -> tuple[Int64[np.ndarray, " n"], int]:
    """Return the block of each image, and the number of pairs of images of equal name.

    An image and its namesake in the other group are a block; all others are one more.
    """
    names, others = first.ids, second.ids
    blocks = np.zeros(len(first) + len(second), np.int64)
    unique = len(set(names)) == len(names) and len(set(others)) == len(others)
    shared = {name: i for i, name in enumerate(sorted(set(names) & set(others)), start=1)}
    if not (unique and shared):
        return blocks, 0
    for place, name in enumerate([*names, *others]):
        blocks[place] = shared.get(name, 0)
    return blocks, len(shared)


def image_group(database: Database, given: GroupLike | int, name: str) -> ImageGroup:
    """Return a group of images from any of its forms.

    Parameters
    ----------
    given
        A folder or other SPEC, a picture, a list of the database's images, or their numbers.
    name
        Name of the group, unless it is named after a file.

    Raises
    ------
    DataError
        If images cannot be loaded, or the database lacks those of a list.
    """
    if isinstance(given, str | Path):
        path = user_path(given)
        if path.suffix.lower() in LISTS and path.is_file():
            return _of_database(database, _listed(path), path.stem)
        images = as_images([path] if path.is_file() else given)
        return ImageGroup(path.name or str(given), images, tuple(range(len(images))))
    if isinstance(given, int):
        return _numbered(database, sample_numbers([given]), name)
    if isinstance(given, Images):
        return ImageGroup(name, given, tuple(range(len(given))))
    if len(given) and all(isinstance(item, int | np.integer) for item in given):
        return _numbered(database, sample_numbers(list(given)), name)
    images = as_images(given)
    return ImageGroup(name, images, tuple(range(len(images))))


def _listed(path: Path) -> list[str]:
    if path.suffix.lower() == ".txt":
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    frame = _read_table(path)
    if PATH not in frame:
        raise DataError(
            f"'{path}' has no column '{PATH}'.",
            f"It has {', '.join(map(str, frame.columns[:8]))}.",
            "Name the images' paths in the database in such a column.",
        )
    return frame[PATH].astype(str).tolist()


def _read_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(io.BytesIO(read_bytes(path)))
            refuse_repeated_columns(table.column_names)
            return table.to_pandas()
        text = read_text(path)
        csv_rows(text)  # pandas renames a column that is there twice
        return pd.read_csv(io.StringIO(text))
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise DataError(
            f"The table '{path}' cannot be read ({error}).",
            "Expected a .csv or .parquet file.",
            "Check the path and the file.",
        ) from error


def _of_database(database: Database, paths: Sequence[str], name: str) -> ImageGroup:
    """Return images of the database by their paths; the readable ones."""
    ids = database.images.ids
    number = {path: i for i, path in enumerate(ids)}
    unknown = [path for path in paths if path not in number]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(paths)} images are not in the database: '{unknown[0]}'.",
            f"Expected paths such as '{ids[0]}'.",
            "Correct the list; a folder is a group of its own images.",
        )
    readable = set(readable_samples(database))
    samples = sorted({number[path] for path in paths} & readable)
    return ImageGroup(name, database.images, tuple(samples))


def _numbered(database: Database, samples: list[int], name: str) -> ImageGroup:
    outside = [sample for sample in samples if not 0 <= sample < database.manifest.samples]
    if outside:
        raise DataError(
            f"The database has no image {outside[0]}.",
            f"It has images 0 to {database.manifest.samples - 1}.",
            "Choose some of them.",
        )
    return ImageGroup(name, database.images, tuple(dict.fromkeys(samples)))


def readable_samples(database: Database) -> list[int]:
    """Return the numbers of the database's images that could be read."""
    return np.flatnonzero(database.samples["error"].isna().to_numpy()).tolist()


def _checked(first: ImageGroup, second: ImageGroup) -> tuple[ImageGroup, ImageGroup]:
    for group in (first, second):
        if len(group) < LEAST:
            raise DataError(
                f"The group '{group.name}' has {len(group)} images.",
                f"Expected at least {LEAST}.",
                "Add images to the group.",
            )
    same = first.images is second.images and set(first.samples) & set(second.samples)
    if same:
        raise DataError(
            f"{len(same)} images are in both groups.",
            "Expected groups that share no image.",
            "Remove them from one group.",
        )
    return first, second
