"""Accuracy of a model on images with known logits, per class and over all (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.data.images import Images
from semlens.data.targets import map_targets
from semlens.errors import DataError, ModelError
from semlens.models.forward import logits
from semlens.models.subject import SubjectModel


@dataclass(frozen=True)
class Evaluation:
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

    def __repr__(self) -> str:
        """Return accuracy and the classes as text."""
        table = self.per_class.to_string(index=False, float_format="{:.3f}".format)
        return f"Accuracy {self.accuracy:.3f} on {self.samples} images\n{table}"


def evaluate(
    model: SubjectModel,
    images: Images,
    targets: Sequence[int | None] | None = None,
    samples: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Evaluation:
    """Measure accuracy; samples without a known logit are left out.

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
    kept = [i for i in chosen if targets[i] is not None]
    if not kept:
        raise DataError(
            "No image has a class that the model knows.",
            "Expected class folders named as the model's classes or WordNet ids.",
            "Map them with --classes FILE or --targets CSV.",
        )
    right = np.array([targets[i] for i in kept])
    scores = logits(model, images.read, kept, batch_size)
    check_targets(right, scores.shape[1])
    answers = scores.argmax(1)
    hit = answers == right
    names = model.classes
    table = pd.DataFrame(
        [
            {
                "class": names[c] if names is not None else str(c),
                "samples": int((right == c).sum()),
                "recall": float(hit[right == c].mean()),
            }
            for c in np.unique(right)
        ]
    )
    return Evaluation(float(hit.mean()), len(kept), table, right, answers)


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
