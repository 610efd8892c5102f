"""Accuracy of a model on images with known logits, per class and over all (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64
from rich.console import Group

from semlens.analysis.classes import true_classes
from semlens.analysis.result import Chart, Result
from semlens.data.class_mapping import map_targets
from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError, ModelError
from semlens.models.forward import logits
from semlens.models.subject import SubjectModel
from semlens.settings import question, setting
from semlens.store.reader import Database

SHOWN = 40
"""Classes in a plot: those of the lowest recall."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Some samples of images, and the right logit of each."""

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
        """Take samples with a known logit, of all or of some.

        Parameters
        ----------
        targets
            Logit of each image; by default found by class name.

        Raises
        ------
        DataError
            If no sample has one.
        """
        if targets is None:
            targets = map_targets(images.targets, len(images), model.classes, model.synsets).logits
        chosen = range(len(images)) if samples is None else samples
        known = {i: logit for i in chosen if (logit := targets[i]) is not None}
        if not known:
            raise DataError(
                f"No image of '{images.spec}' has a class that the model knows.",
                "Expected class folders named as the model's classes or WordNet ids.",
                "Rename the folders, or give targets.",
            )
        return cls(images, np.array([*known], np.int64), np.array([*known.values()], np.int64))


def labelled(
    database: Database,
    images: Images | None = None,
    only: str | None = None,
    samples: Sequence[int] | np.ndarray | None = None,
) -> LabelledImages:
    """Return images with their right logits: the database's as it knows them, or others by name.

    Parameters
    ----------
    only
        Only images whose file name starts so.
    samples
        Which of the images.

    Raises
    ------
    DataError
        If there is none, or none has a class that the model knows.
    """
    targets = None
    if images is None:
        images, right = database.images, true_classes(database)
        targets = [None if np.isnan(logit) else int(logit) for logit in right]
    samples = range(len(images)) if samples is None else [int(sample) for sample in samples]
    if only is not None:
        names = [name.rsplit("/", 1)[-1] for name in images.ids]
        samples = [i for i in samples if names[i].startswith(only)]
        if not samples:
            raise DataError(
                f"No file name of '{images.spec}' starts with '{only}'.",
                f"Expected names such as '{names[0]}'.",
                "Correct only=, or leave it out.",
            )
    return LabelledImages.of(images, database.model, targets, samples)


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """How often the largest logit is the right one."""

    data: LabelledImages
    classes: Sequence[str] | None
    answers: Int64[np.ndarray, " n"]
    """The largest logit of each sample."""
    logit: Float64[np.ndarray, " n"]
    """The value of the right one."""
    other: Float64[np.ndarray, " n"]
    """The largest value of the others."""

    @property
    def targets(self) -> Int64[np.ndarray, " n"]:
        """The right logit of each sample."""
        return self.data.targets

    @property
    def hit(self) -> Bool[np.ndarray, " n"]:
        """Whether the largest logit is the right one."""
        return self.answers == self.targets

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.hit.mean())

    @property
    def samples(self) -> int:
        """How many images were asked about."""
        return len(self.targets)

    def of_class(self, target: int | None) -> Bool[np.ndarray, " n"]:
        """Return which samples are of a class; all of them for None."""
        return np.full(self.samples, True) if target is None else self.targets == target

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per class: ``class``, ``samples``, ``recall``."""
        found = pd.DataFrame({"class": self.targets, "hit": self.hit}).groupby("class")["hit"]
        table = found.agg(samples="size", recall="mean").reset_index()
        return table.assign(**{"class": table["class"].map(self.name_of)})

    def name_of(self, target: int) -> str:
        """Return the name of a class, or its number where there are no names."""
        return str(target) if self.classes is None else self.classes[target]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "accuracy": self.accuracy,
            "samples": self.samples,
            "classes": self.to_pandas().to_dict("records"),
        }

    def plot(self) -> Chart:
        """Draw the recall of the classes, the lowest first."""
        from semlens.draw.component_plots import bars_plot

        lowest = self.to_pandas().nsmallest(SHOWN, "recall")
        return bars_plot(lowest["class"].tolist(), lowest["recall"].tolist(), self._title, "recall")

    @property
    def _title(self) -> str:
        return f"Accuracy {self.accuracy:.3f} on {self.samples} images"

    def __rich__(self) -> Group:
        """Return the accuracy, and a row per class."""
        return Group(self._title, rich_table(self.to_pandas()))


@question("model", "images")
def evaluate(
    database: Database,
    *,
    images: Images | str | Path | Sequence[Any] | None = None,
    samples: Sequence[int] | np.ndarray | None = None,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> Evaluation:
    """Measure the accuracy of a database's model; images without a known class are left out.

    Components that are pruned meanwhile (:func:`semlens.pruned`) are left out, too.

    Parameters
    ----------
    images
        Images with class names, in place of the database's.
    samples
        Which of the images; all by default.

    Raises
    ------
    DataError
        If no image has a class that the model knows.
    ModelError
        If the model has one logit only.
    """
    given = None if images is None else as_images(images)
    return answers(database.model, labelled(database, given, samples=samples), batch_size)


def evaluate_model(
    model: SubjectModel,
    images: Images,
    targets: Sequence[int | None] | None = None,
    samples: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Evaluation:
    """Measure the accuracy of any model on any images, as :func:`evaluate` does.

    Parameters
    ----------
    targets
        Logit of each sample; by default found by class name.
    """
    return answers(model, LabelledImages.of(images, model, targets, samples), batch_size)


def answers(model: SubjectModel, data: LabelledImages, batch_size: int = 32) -> Evaluation:
    """Run a model over images whose right logits are known; errors as of :func:`evaluate`."""
    scores = logits(model, data.images.read, data.samples.tolist(), batch_size)
    check_targets(data.targets, scores.shape[1])
    largest, place = scores.argmax(1), (np.arange(len(scores)), data.targets)
    right = scores[place].astype(np.float64)
    scores[place] = -np.inf
    return Evaluation(data, model.classes, largest, right, scores.max(1).astype(np.float64))


def check_targets(targets: Int64[np.ndarray, " n"], count: int) -> None:
    """Refuse targets that are none of a model's ``count`` logits, and a model with one only.

    Raises
    ------
    DataError
        If a target is none of them.
    ModelError
        If there is one logit: it would be the largest on every image.
    """
    for target in (int(targets.min()), int(targets.max())):
        if not 0 <= target < count:
            raise DataError(
                f"A target is logit {target}.",
                f"The model has logits 0 to {count - 1}.",
                "Correct the class map.",
            )
    if count == 1:
        raise ModelError(
            "The model puts out one logit.",
            "Expected one per class: the largest one is the answer.",
            "Put a logit of zero beside it: torch.cat([x, torch.zeros_like(x)], 1).",
        )
