"""What a model answers without some components, before anything is written (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int64

from semlens.analysis.classes import class_samples, find_class, true_classes
from semlens.analysis.correct.component_files import chosen_components
from semlens.analysis.correct.sensitivity import CLEAN, change_interval, wilson
from semlens.analysis.evaluate import check_targets
from semlens.data.artefact import Artefact, as_artefacts, insert_drawn
from semlens.models.forward import ImageReader, batches, run_scores
from semlens.models.hooks import evaluating, pruned
from semlens.models.subject import SubjectModel
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Components, Target

PER_CLASS, AT_MOST = 20, 400
"""Images of a class, and of all classes, if nothing else is said."""


@dataclass(frozen=True)
class RateChange:
    """Two shares of the same images with 95 % intervals, and how the share has changed."""

    images: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]

    @classmethod
    def of(cls, before: Bool[np.ndarray, " n"], after: Bool[np.ndarray, " n"]) -> RateChange:
        """Count both; the change is measured pair by pair."""
        change, low, high = change_interval(after, before, paired=True)
        return cls(
            len(before),
            float(before.mean()),
            wilson(int(before.sum()), len(before)),
            float(after.mean()),
            wilson(int(after.sum()), len(after)),
            change,
            (low, high),
        )


@dataclass(frozen=True, eq=False)
class Predictions:
    """The largest logit on each image, with all components and without some."""

    name: str
    before: Int64[np.ndarray, " n"]
    after: Int64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class AblationPreview:
    """A model with and without components, on the same images.

    Parameters
    ----------
    samples, right
        The images, and the right logit of each.
    sets
        Predictions on the images as they are and, where an artefact was given, with it.
    """

    target: int
    components: tuple[Component, ...]
    samples: Int64[np.ndarray, " n"]
    right: Int64[np.ndarray, " n"]
    sets: tuple[Predictions, ...]

    def accuracy(self, found: Predictions, target: int | None = None) -> RateChange:
        """Return the accuracy on all images, or on those of a class (its recall)."""
        here = slice(None) if target is None else self.right == target
        return RateChange.of((found.before == self.right)[here], (found.after == self.right)[here])

    def mistaken(self, found: Predictions) -> RateChange | None:
        """Return how many images of other classes are called the class; None without any."""
        here = self.right != self.target
        if not here.any():
            return None
        return RateChange.of(
            (found.before == self.target)[here], (found.after == self.target)[here]
        )


def preview_samples(
    database: Database,
    target: int,
    per_class: int = PER_CLASS,
    at_most: int = AT_MOST,
    seed: int = 0,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Draw readable samples, the same number of each class, and return their logits, too.

    The class itself comes first; where there is no room for all, others have fewer.

    Raises
    ------
    DataError
        If the class has no samples.
    """
    class_samples(database, target, 1)  # says what there is, if the class has none
    logit = true_classes(database)
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(~np.isnan(logit)))
    right = logit[drawn].astype(np.int64)
    rank = pd.Series(right).groupby(right).cumcount().to_numpy()  # of each in its class
    first = np.lexsort((rank, right != target))
    chosen = np.sort(drawn[first[rank[first] < per_class][:at_most]])
    return chosen, logit[chosen].astype(np.int64)


@question("model", "images", public=False)
def ablation_preview(
    database: Database,
    target: Target,
    components: Components,
    *,
    artefact: Artefact | str | None = None,
    per_class: Annotated[int, setting("Images of each class.", ge=1)] = PER_CLASS,
    at_most: Annotated[int, setting("Images of all classes.", ge=1)] = AT_MOST,
    seed: Annotated[int, setting("Of the images, and of the artefact's places.", ge=0)] = 0,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> AblationPreview:
    """Run a model with and without components; its weights stay as they are.

    Parameters
    ----------
    artefact
        Is inserted into every image, for answers of their own.
    per_class, at_most
        How many images, as :func:`preview_samples` draws them.
    seed
        The artefact's places are those of :func:`sensitivity`.

    Raises
    ------
    LayerError
        If there is no component, or the database lacks one.
    DataError
        If the class has no samples, or the model lacks a class.
    ModelError
        If the model puts out no logits, or one only.
    """
    chosen = chosen_components(components, database)
    number, images = find_class(database, target), database.images
    sources: dict[str, ImageReader] = {CLEAN: images.read}
    for one in as_artefacts(artefact or ()):
        sources[one.name] = lambda sample, one=one: insert_drawn(
            images.read(sample), [one], seed, sample
        )
    samples, right = preview_samples(database, number, per_class, at_most, seed)
    sets = tuple(
        Predictions(name, *_answers(database.model, name, read, samples, right, chosen, batch_size))
        for name, read in sources.items()
    )
    return AblationPreview(number, tuple(chosen), samples, right, sets)


@torch.inference_mode()
def _answers(
    model: SubjectModel,
    name: str,
    reader: ImageReader,
    samples: Int64[np.ndarray, " n"],
    right: Int64[np.ndarray, " n"],
    components: Sequence[Component],
    batch_size: int,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return the largest logits with and without components; images are decoded once."""
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with evaluating(model.module):
        for batch in batches(model, reader, samples.tolist(), batch_size, name):
            for part, removed in zip(found, ((), components), strict=True):
                with pruned(model, removed):
                    scores = run_scores(model, batch)
                check_targets(right, scores.shape[1])
                part.append(scores.float().argmax(1).cpu().numpy())
    return np.concatenate(found[0]), np.concatenate(found[1])
