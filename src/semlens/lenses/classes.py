"""The classes of a database: names, logit indices, samples, and images for questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

from semlens.data.images import Images
from semlens.data.pictures import ImageLike, listed_pictures
from semlens.errors import DataError, RelevanceError, nearest, shortened
from semlens.lenses.database_engine import engine_of
from semlens.lenses.query_embedding import open_image
from semlens.models.forward import ImageReader
from semlens.models.parse_target import is_other_target
from semlens.models.target import Target
from semlens.relevance.presets import Rules
from semlens.relevance.protocols import RelevanceEngine
from semlens.store import file_names
from semlens.store.reader import Database


def find_class(database: Database, target: str | int | Target) -> int:
    """Return the logit index of a class that is given by name, by index or as a target.

    Raises
    ------
    RelevanceError
        If there is no such class, several classes have the name, or it is another target; or if
        the model answers with an embedding, whose axes are no classes.
    """
    if isinstance(target, Target):
        if target.index is None:
            raise _other_target(target.name)
        target = target.index
    elif isinstance(target, str) and is_other_target(target):
        if not classes_named(database, target):
            raise _other_target(target)
    output = database.manifest.output
    if output is not None and output.task == "embedding":
        raise RelevanceError(
            f"There is no class '{target}'. The model: {output.summary}",
            "Expected a model that answers with classes or values.",
            "If these are logits of classes, pass task='multiclass' to SubjectModel (--task) and "
            "build again.",
        )
    matches = classes_named(database, target)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RelevanceError(
            f"The classes {', '.join(map(str, matches))} are all named '{target}'.",
            "Expected a name that only one class has.",
            "Use the index.",
        )
    names = database.manifest.classes
    raise RelevanceError(
        f"Unknown class '{target}'.",
        "The database has no class names: expected a logit index, from 0."
        if names is None
        else f"Expected an index from 0 to {len(names) - 1}, or a name: "
        f"{nearest(str(target), names)}.",
        "Use the index." if names is None else "Choose one of them.",
    )


def _other_target(name: str) -> RelevanceError:
    return RelevanceError(
        f"'{shortened(name)}' is not a class, but another target of the model.",
        "Expected one class: the question needs images of it, and images of others.",
        "Name a class; explain, class-relevance, graph, effect and reliance take any target.",
    )


def classes_named(database: Database, target: str | int) -> list[int]:
    """Return the logit indices of the classes of a name, or the one of an index; there may be none.

    Without an error, whose nearest names take long to find among many.
    """
    names = database.manifest.classes
    # an int is always an index, even if the name of another class is that number
    matches = [i for i, name in enumerate(names or ()) if name == target]
    index = int(target) if str(target).isdecimal() else -1
    if not matches and index >= 0 and (names is None or index < len(names)):
        return [index]
    return matches


def class_name(database: Database, target: int) -> str:
    """Return the name of a class, or its index if the database has no class names.

    -1 stands for no prediction.
    """
    if target < 0:
        return "no prediction"
    names = database.manifest.classes
    return names[target] if names is not None and target < len(names) else str(target)


def true_classes(database: Database) -> Float64[np.ndarray, " n"]:
    """Return the class index of each of n samples; NaN if unknown or the sample is unreadable."""
    # only two columns are read, since there may be millions of paths
    table = database.files.table(file_names.SAMPLES, ["logit", "error"]).to_pandas()
    return table["logit"].astype(float).where(table["error"].isna()).to_numpy()


def class_samples(
    database: Database, target: int, at_most: int | None = None, *, instead: str = ""
) -> Int64[np.ndarray, " n"]:
    """Return the readable samples of a class, at most ``at_most`` of them, evenly spaced.

    Parameters
    ----------
    instead
        What the caller can be given in place of samples of the class, for the error.

    Raises
    ------
    DataError
        If the class has no samples.
    """
    classes = known_classes(database, instead)
    samples = np.flatnonzero(classes == target)
    if len(samples) == 0:
        with_samples = np.unique(classes[~np.isnan(classes)])
        names = sorted({class_name(database, int(c)) for c in with_samples})
        raise DataError(
            f"The class '{class_name(database, target)}' has no samples in the database.",
            f"It has samples of {nearest(class_name(database, target), names, 8)}.",
            f"Choose one of them{', or ' if instead else ''}{instead}.",
        )
    if at_most is not None and len(samples) > at_most:
        spaced = np.linspace(0, len(samples) - 1, max(at_most, 1)).round().astype(np.int64)
        samples = samples[spaced]
    return samples.astype(np.int64)


def has_true_classes(database: Database) -> bool:
    """Return whether the class of any readable sample is known."""
    return not bool(np.isnan(true_classes(database)).all())


def known_classes(database: Database, instead: str = "") -> Float64[np.ndarray, " n"]:
    """Return :func:`true_classes`, of which at least one is known.

    Raises
    ------
    DataError
        If none is: the model's own predictions cannot take their place, as they are never wrong.
    """
    classes = true_classes(database)
    if np.isnan(classes).all():
        raise DataError(
            "The images of this database have no true classes.",
            "Expected images whose right answer is known. Predicted classes are no substitute: by "
            "them the model makes no errors.",
            "Build the database again with targets= (the class of each image) or classes= (the "
            f"logit of each class folder){'; or ' if instead else ''}{instead}.",
        )
    return classes


def count_or_numbers(samples: int | Sequence[int] | np.ndarray) -> int | list[int]:
    """Return a largest number of samples, or the samples that are given by number.

    Raises
    ------
    DataError
        If one is no whole number, or the largest number is less than 1.
    """
    if isinstance(samples, Sequence) or (isinstance(samples, np.ndarray) and samples.ndim):
        return sample_numbers(samples)
    value: Any = samples.item() if isinstance(samples, np.ndarray | np.generic) else samples
    if type(value) is not int or value < 1:
        raise DataError(
            f"The number of samples is {shortened(value)}.",
            "Expected a whole number from 1, or a list of samples by number.",
            "Pass samples=100, or samples=[0, 1, ...].",
        )
    return value


def sample_numbers(samples: Sequence[int] | np.ndarray) -> list[int]:
    """Return samples that are given by number.

    Raises
    ------
    DataError
        If one is no whole number, as in a mask of booleans.
    """
    numbers = np.asarray(samples)
    if any(type(sample) is bool for sample in samples) or (
        numbers.size and (numbers.ndim != 1 or numbers.dtype.kind not in "iu")
    ):
        raise DataError(
            f"The samples are {shortened(samples)}.",
            "Expected numbers of samples, which count from 0.",
            "Of a mask, pass numpy.flatnonzero(mask).",
        )
    return numbers.tolist()


def spaced_samples(database: Database, at_most: int) -> list[int]:
    """Return readable samples of all kinds, at most ``at_most`` of them, evenly spaced."""
    readable = np.flatnonzero(database.samples["error"].isna().to_numpy())
    spaced = np.linspace(0, len(readable) - 1, min(at_most, len(readable))).round()
    return readable[spaced.astype(np.int64)].tolist()


Pictures = Images | ImageLike | Sequence[ImageLike] | None
"""Images to use instead of the database's."""
OTHER_IMAGES = "pass samples=[0, 1, ...] or images=..."
"""What can be given in place of samples of a class."""


@dataclass(frozen=True)
class TargetImages:
    """A target, and images on which it is analysed.

    Parameters
    ----------
    target
        A class, or another target.
    read
        Returns the image of a sample.
    samples
        Sample indices that ``read`` accepts.
    """

    database: Database
    target: Target
    read: ImageReader
    samples: list[int]

    def engine(self, layers: Sequence[str], rules: str | Rules | None = None) -> RelevanceEngine:
        """Return the relevance engine for images of the first image's size."""
        model = self.database.model
        first = model.batch([model.prepare(self.read(self.samples[0]))])
        outputs = not self.target.reads_answer
        return engine_of(self.database, first, layers, rules, outputs=outputs, heatmaps=False)


def target_images(
    database: Database,
    target: int | Target,
    samples: int | Sequence[int],
    images: Pictures = None,
) -> TargetImages:
    """Select the images on which a class or another target is analysed.

    Parameters
    ----------
    samples
        Largest number of samples of the class, or the indices of any samples. A target that is
        not one class is analysed on samples of all kinds, evenly spaced.
    images
        Images to use instead of the database's: all of them, or those in ``samples``.

    Raises
    ------
    DataError
        If there are no images.
    """
    target = Target.logit(target) if isinstance(target, int) else target
    source = database.images if images is None else images
    source = source if isinstance(source, Images) else listed_pictures(source)
    if not isinstance(samples, int):
        selected = samples
    elif images is None and target.index is not None:
        selected = class_samples(database, target.index, samples, instead=OTHER_IMAGES).tolist()
    elif images is None:
        selected = spaced_samples(database, samples)
    else:
        selected = range(len(source))

    def read(sample: int) -> Image.Image:
        if isinstance(source, Images):
            return source.read(sample)
        return open_image(source[sample], database.rendering)

    if len(selected) == 0:
        raise DataError("There are no images.", "Expected at least one.", "Pass images or samples.")
    return TargetImages(database, target, read, list(selected))
