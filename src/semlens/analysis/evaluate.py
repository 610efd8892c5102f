"""Accuracy of a model on images with known logits, per class and over all (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import RenderableType

from semlens.analysis.result import Result
from semlens.data.images import Images
from semlens.data.targets import map_targets
from semlens.draw.table import rich_table
from semlens.errors import DataError, ModelError
from semlens.models.forward import logits
from semlens.models.subject import SubjectModel
from semlens.settings import question, setting
from semlens.store.reader import Database

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 40
"""Classes in a plot: those of the lowest recall."""


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """How often the largest logit is the right one."""

    accuracy: float
    samples: int
    per_class: pd.DataFrame
    """Columns ``class``, ``samples``, ``recall``."""
    targets: Int64[np.ndarray, " n"]
    """The right logit of each sample that has one."""
    answers: Int64[np.ndarray, " n"]
    """The largest logit of the same samples."""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per class."""
        return self.per_class.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        classes = self.per_class.to_dict("records")
        return {"accuracy": self.accuracy, "samples": self.samples, "classes": classes}

    def plot(self) -> Figure:
        """Draw the recall of the classes, the lowest first."""
        from semlens.draw.bars_plot import bars_plot

        lowest = self.per_class.nsmallest(SHOWN, "recall")
        return bars_plot(lowest["class"].tolist(), lowest["recall"].tolist(), self._title, "recall")

    @property
    def _title(self) -> str:
        return f"Accuracy {self.accuracy:.3f} on {self.samples} images"

    def __rich__(self) -> RenderableType:
        """Return the accuracy, and a row per class."""
        return rich_table(self.per_class, self._title)


@question("model", "images")
def evaluate(
    database: Database,
    *,
    samples: Sequence[int] | np.ndarray | None = None,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> Evaluation:
    """Measure the accuracy of a database's model on the database's images.

    Components that are pruned meanwhile (:func:`semlens.pruned`) are left out.

    Parameters
    ----------
    samples
        Which of the images; by default all that could be read. Those without a known logit
        are left out.

    Raises
    ------
    DataError
        If no sample has a known logit.
    ModelError
        If the model has one logit only.
    """
    known = database.samples
    targets = [None if pd.isna(logit) else int(logit) for logit in known["logit"]]
    if samples is None:
        samples = np.flatnonzero(known["error"].isna())
    chosen = [int(sample) for sample in samples]
    return evaluate_model(database.model, database.images, targets, chosen, batch_size)


def evaluate_model(
    model: SubjectModel,
    images: Images,
    targets: Sequence[int | None] | None = None,
    samples: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Evaluation:
    """Measure accuracy of any model on any images; samples without a known logit are left out.

    Parameters
    ----------
    targets
        Logit of each sample; by default found by class name.

    Raises
    ------
    DataError
        If no sample has a known logit, or the model lacks one.
    ModelError
        If the model has one logit only.
    """
    if targets is None:
        targets = map_targets(images.targets, len(images), model.classes, model.synsets).logits
    chosen = range(len(images)) if samples is None else samples
    right = np.array([targets[i] for i in chosen if targets[i] is not None], np.int64)
    if not len(right):
        raise DataError(
            "No image has a class that the model knows.",
            "Expected class folders named as the model's classes or WordNet ids.",
            "Give classes= or targets= when the database is built.",
        )
    scores = logits(model, images.read, [i for i in chosen if targets[i] is not None], batch_size)
    check_targets(right, scores.shape[1])
    answers = scores.argmax(1)
    hit = pd.DataFrame({"logit": right, "hit": answers == right}).groupby("logit")["hit"]
    table = hit.agg(samples="size", recall="mean").reset_index()
    names = [str(c) if model.classes is None else model.classes[c] for c in table.pop("logit")]
    table.insert(0, "class", names)
    return Evaluation(float((answers == right).mean()), len(right), table, right, answers)


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
