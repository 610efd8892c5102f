"""The images on which a class is studied: samples of the database, or pictures from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import Image

from semlens.analysis.engine import engine_of
from semlens.analysis.probe import ImageLike, open_image
from semlens.analysis.target import class_samples, find_class
from semlens.data.images import Images
from semlens.errors import DataError
from semlens.models.forward import Reader
from semlens.relevance.interface import Tracer
from semlens.relevance.presets import Rules
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import as_list

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
    read: Reader
    samples: list[int]

    def engine(self, layers: Sequence[str], rules: str | Rules | None = None) -> Tracer:
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
    counted = isinstance(samples, int)
    if images is None:
        chosen = class_samples(database, number, samples) if counted else samples
        given = database.images
    else:
        given = images if isinstance(images, Images) else as_list(images)
        chosen = range(len(given)) if counted else samples

    def read(sample: int) -> Image.Image:
        return given.read(sample) if isinstance(given, Images) else open_image(given[sample])

    if len(chosen) == 0:
        raise DataError(
            "There is no image.", "Expected at least one.", "Give images, or numbers of samples."
        )
    return ClassImages(database, number, read, [int(sample) for sample in chosen])
