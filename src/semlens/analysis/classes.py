"""The classes of a database: their names, their numbers, and their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

from semlens.analysis.database_engine import engine_of
from semlens.analysis.query_embedding import ImageLike, open_image
from semlens.data.images import Images
from semlens.errors import DataError, RelevanceError, nearest
from semlens.models.forward import ImageReader
from semlens.relevance.presets import Rules
from semlens.relevance.protocols import RelevanceEngine
from semlens.settings import setting
from semlens.store import file_names
from semlens.store.reader import Database
from semlens.types import as_list


def find_class(database: Database, text: str | int) -> int:
    """Return the logit of a class that is given by name or number.

    Raises
    ------
    RelevanceError
        If there is no such class, or several have the name.
    """
    names = database.manifest.classes
    # a number is a logit, even where a class is called by another number
    places = [i for i, name in enumerate(names or ()) if name == text]
    if len(places) > 1:
        raise RelevanceError(
            f"The classes {', '.join(map(str, places))} are all called '{text}'.",
            "Expected a name that only one class has.",
            "Give the number.",
        )
    if places:
        return places[0]
    number = int(text) if str(text).isdecimal() else -1
    if number >= 0 and (names is None or number < len(names)):
        return number
    raise RelevanceError(
        f"'{text}' is no class of the database.",
        "It knows no class names: expected the number of a logit, from 0."
        if names is None
        else f"Expected a number from 0 to {len(names) - 1}, or a name: "
        f"{nearest(str(text), names)}.",
        "Give the number." if names is None else "Choose one of them.",
    )


def class_name(database: Database, target: int) -> str:
    """Return the name of a class, or its number where there are no names."""
    names = database.manifest.classes
    return names[target] if names is not None and target < len(names) else str(target)


def right_logits(database: Database) -> Float64[np.ndarray, " n"]:
    """Return the logit of each sample's class; NaN where it is not known or not readable."""
    # two columns of the table, for its paths may be millions
    table = database.files.table(file_names.SAMPLES, ["logit", "error"]).to_pandas()
    return table["logit"].astype(float).where(table["error"].isna()).to_numpy()


def class_samples(
    database: Database, target: int, at_most: int | None = None
) -> Int64[np.ndarray, " n"]:
    """Return the readable samples of a class, evenly thinned out to ``at_most``.

    Raises
    ------
    DataError
        If the class has none.
    """
    logit = right_logits(database)
    mine = np.flatnonzero(logit == target)
    if len(mine) == 0:
        known = sorted({class_name(database, int(c)) for c in np.unique(logit[~np.isnan(logit)])})
        raise DataError(
            f"The class '{class_name(database, target)}' has no samples in the database.",
            f"It has samples of {nearest(class_name(database, target), known, 8)}."
            if known
            else "None of its samples has a known class.",
            f"{'Choose one of them' if known else 'Build it with classes= or targets='}, or say "
            "on which images: samples=[0, 1, ...], or images=...",
        )
    if at_most is not None and len(mine) > at_most:
        mine = mine[np.linspace(0, len(mine) - 1, max(at_most, 1)).round().astype(np.int64)]
    return mine.astype(np.int64)


Samples = Annotated[int | Sequence[int] | np.ndarray, setting("Images of the class at most.", ge=1)]
"""How many samples of a class a question takes at most, or the numbers of any samples."""
Pictures = Images | ImageLike | Sequence[ImageLike] | None
"""Images in place of the database's, wherever a question takes some."""


@dataclass(frozen=True)
class ClassImages:
    """A class and some images; these need not be of the class.

    Parameters
    ----------
    target
        The logit.
    read
        Returns the image of a sample.
    samples
        Which ones.
    """

    database: Database
    target: int
    read: ImageReader
    samples: list[int]

    def engine(self, layers: Sequence[str], rules: str | Rules | None = None) -> RelevanceEngine:
        """Return the relevance engine for images of the first one's size."""
        model = self.database.model
        first = model.batch([model.preprocess(self.read(self.samples[0]))])
        return engine_of(self.database, first, layers, rules)


def class_images(
    database: Database,
    target: int | str,
    samples: int | Sequence[int] | np.ndarray,
    images: Pictures = None,
) -> ClassImages:
    """Choose the images on which a class is studied.

    Parameters
    ----------
    samples
        How many of the class at most, or the numbers of any.
    images
        Instead of the database's: all of them, or those that ``samples`` names.

    Raises
    ------
    RelevanceError
        If there is no such class.
    DataError
        If there is no image.
    """
    number = find_class(database, target)
    given = database.images if images is None else images
    given = given if isinstance(given, Images) else as_list(given)
    chosen: Any = samples
    if isinstance(samples, int):
        chosen = class_samples(database, number, samples) if images is None else range(len(given))

    def read(sample: int) -> Image.Image:
        return given.read(sample) if isinstance(given, Images) else open_image(given[sample])

    if len(chosen) == 0:
        raise DataError(
            "There is no image.", "Expected at least one.", "Give images, or numbers of samples."
        )
    return ClassImages(database, number, read, [int(sample) for sample in chosen])
