"""Accuracy of a model on labelled images, overall and per class (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from rich.console import Group

from semlens.data.class_mapping import map_targets
from semlens.data.images import Images
from semlens.data.load import ImagesLike, as_images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError
from semlens.figures import FigureSpec, Series, Values
from semlens.lens import lens
from semlens.lenses.classes import known_classes, sample_numbers
from semlens.lenses.result import Result
from semlens.models.forward import logits, predicted_classes
from semlens.models.load import ModelLike, as_model
from semlens.models.subject import SubjectModel
from semlens.settings import setting
from semlens.store.reader import Database

SHOWN = 40
"""Number of classes in the plot: those with the lowest recall."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A selection of images, with the correct logit of each."""

    images: Images
    samples: Int64[np.ndarray, " n"]
    targets: Int64[np.ndarray, " n"]

    @classmethod
    def of(
        cls,
        images: Images,
        model: SubjectModel,
        targets: Sequence[int | None] | None = None,
        samples: Sequence[int] | None = None,
    ) -> LabelledImages:
        """Select the samples whose logit is known, of all or of ``samples``.

        Parameters
        ----------
        targets
            Logit of each image, or None; by default found by class name.

        Raises
        ------
        DataError
            If no sample has a known logit.
        """
        if targets is None:
            targets = map_targets(
                images.targets, len(images), model.class_names, model.synsets
            ).logits
        indices = range(len(images)) if samples is None else samples
        logits = {i: logit for i in indices if (logit := targets[i]) is not None}
        if not logits:
            raise DataError(
                f"No image of '{images.spec}' has a class of the model.",
                "Expected class folders named after the model's classes or WordNet ids.",
                "Rename the folders, or give targets.",
            )
        return cls(images, np.array([*logits], np.int64), np.array([*logits.values()], np.int64))


def labelled_images(
    database: Database,
    images: Images | None = None,
    only: str | None = None,
    samples: Sequence[int] | np.ndarray | None = None,
) -> LabelledImages:
    """Return the database's images with their logits, or other images with logits by class name.

    Parameters
    ----------
    only
        Use only images whose file name starts with this.
    samples
        Numbers of the images; all by default.

    Raises
    ------
    DataError
        If there are no such images, or none has a class of the model.
    """
    targets = None
    if images is None:
        images, logits = database.images, known_classes(database, "pass images with classes")
        targets = [None if np.isnan(logit) else int(logit) for logit in logits]
    samples = range(len(images)) if samples is None else sample_numbers(samples)
    if only is not None:
        names = [name.rsplit("/", 1)[-1] for name in images.ids]
        samples = [i for i in samples if names[i].startswith(only)]
        if not samples:
            raise DataError(
                f"No file name of '{images.spec}' starts with '{only}'.",
                f"Expected a prefix of names such as '{names[0]}'.",
                "Give another value of only, or leave it out.",
            )
    return LabelledImages.of(images, database.model, targets, samples)


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Predictions and accuracy on labelled images.

    Parameters
    ----------
    classes
        Names of the model's classes, if it has them.
    predictions
        int64[n], class of the largest logit of each sample; -1 where a logit is not a number.
    logit
        float64[n], value of the correct logit.
    best_other
        float64[n], largest value of the other logits.
    """

    data: LabelledImages
    classes: Sequence[str] | None
    predictions: Int64[np.ndarray, " n"]
    logit: Float64[np.ndarray, " n"]
    best_other: Float64[np.ndarray, " n"]

    @property
    def targets(self) -> Int64[np.ndarray, " n"]:
        """The correct logit of each sample."""
        return self.data.targets

    @property
    def correct(self) -> Bool[np.ndarray, " n"]:
        """Whether each prediction is correct."""
        return self.predictions == self.targets

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions."""
        return float(self.correct.mean())

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self.targets)

    def of_class(self, target: int | None) -> Bool[np.ndarray, " n"]:
        """Return which samples belong to a class; all of them for None."""
        return np.full(self.samples, True) if target is None else self.targets == target

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per class: ``class``, ``samples``, ``recall``."""
        frame = pd.DataFrame({"class": self.targets, "correct": self.correct})
        table = frame.groupby("class")["correct"].agg(samples="size", recall="mean").reset_index()
        return table.assign(**{"class": table["class"].map(self.name_of)})

    def name_of(self, target: int) -> str:
        """Return the name of a class, or its number if the model has no class names."""
        return str(target) if self.classes is None else self.classes[target]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "accuracy": self.accuracy,
            "samples": self.samples,
            "classes": self.to_pandas().to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the recall of the classes, lowest first."""
        lowest = self.to_pandas().nsmallest(SHOWN, "recall")
        recall = Series(lowest["recall"].tolist())
        panel = Values("", lowest["class"].tolist(), [recall], "recall", limits=(0.0, 1.0))
        return FigureSpec(self._title, [panel])

    @property
    def _title(self) -> str:
        return f"Accuracy {self.accuracy:.3f} on {self.samples} images"

    def __rich__(self) -> Group:
        """Return the accuracy and the recall of each class."""
        return Group(self._title, rich_table(self.to_pandas()))


@lens("model", "images", group="Correct", command="")
def evaluate(
    database: Database,
    *,
    images: ImagesLike | None = None,
    samples: Sequence[int] | np.ndarray | None = None,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> Evaluation:
    """Measure the accuracy of a database's model; images without a known class are skipped.

    Inside a :func:`semlens.pruned` block, the model is measured without the pruned components.

    Parameters
    ----------
    images
        Images with class names, instead of the database's.
    samples
        Numbers of the images; all by default.

    Raises
    ------
    DataError
        If no image has a class of the model.
    ModelError
        If the model answers with values or an embedding, not with classes.
    """
    data = labelled_images(database, None if images is None else as_images(images), samples=samples)
    return evaluate_labelled(database.model, data, batch_size)


def evaluate_model(
    model: ModelLike,
    images: ImagesLike,
    targets: Sequence[int | None] | None = None,
    samples: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Evaluation:
    """Measure the accuracy of any model on any images, as :func:`evaluate` does.

    Parameters
    ----------
    model, images
        As for :func:`build`.
    targets
        Logit of each image, or None; by default found by class name.
    """
    subject = as_model(model)
    labelled = LabelledImages.of(as_images(images), subject, targets, samples)
    return evaluate_labelled(subject, labelled, batch_size)


def evaluate_labelled(
    model: SubjectModel, data: LabelledImages, batch_size: int = 32
) -> Evaluation:
    """Measure a model's accuracy on labelled images; raises the errors of :func:`evaluate`."""
    model.answer.check_classes()
    scores = logits(model, data.images.read, data.samples.tolist(), batch_size)
    check_targets(data.targets, scores.shape[1])
    predictions, entries = predicted_classes(model, scores), (np.arange(len(scores)), data.targets)
    correct = scores[entries].astype(np.float64)
    scores[entries] = -np.inf
    best_other = scores.max(1).astype(np.float64)
    return Evaluation(data, model.class_names, predictions, correct, best_other)


def check_targets(targets: Int64[np.ndarray, " n"], count: int) -> None:
    """Check targets against a model's number of classes, ``count``.

    Raises
    ------
    DataError
        If a target is not a class of the model.
    """
    for target in (int(targets.min()), int(targets.max())):
        if not 0 <= target < count:
            raise DataError(
                f"A target is logit {target}.",
                f"Expected logits from 0 to {count - 1}.",
                "Correct the class map.",
            )
