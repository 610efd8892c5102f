"""Preview of an ablation: a model's predictions with and without components (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64

from semlens.data.artefact import Artefact, WithArtefact, as_artefacts, insert_drawn
from semlens.data.pieces import Pieces
from semlens.errors import DataError, RelevanceError
from semlens.lens import lens
from semlens.lenses.accuracy import check_targets
from semlens.lenses.arguments import Class, Components
from semlens.lenses.audit.audit_records import Review
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.class_relevance import mean_shares
from semlens.lenses.classes import class_samples, sample_numbers, true_classes
from semlens.lenses.correct.artefact_sensitivity import CLEAN
from semlens.lenses.graph.relevance_trace import component_shares, make_job
from semlens.lenses.statistics.intervals import change_interval, wilson_interval
from semlens.models.forward import ImageReader, batches, compare_ablated
from semlens.models.subject import SubjectModel
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component

PER_CLASS, AT_MOST = 20, 400
"""Default number of images per class, and in total."""


@dataclass(frozen=True)
class RateChange:
    """A rate on the same images before and after, and its change, with 95 % intervals."""

    images: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]

    @classmethod
    def of(cls, before: Bool[np.ndarray, " n"], after: Bool[np.ndarray, " n"]) -> RateChange:
        """Compute both rates, and the interval of their paired difference."""
        change, low, high = change_interval(after, before, paired=True)
        return cls(
            len(before),
            float(before.mean()),
            wilson_interval(int(before.sum()), len(before)),
            float(after.mean()),
            wilson_interval(int(after.sum()), len(after)),
            change,
            (low, high),
        )


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predicted class of each image and its probability, with and without components.

    The class is -1, and the probability NaN, where a logit is not a number.
    """

    name: str
    before: Int64[np.ndarray, " n"]
    after: Int64[np.ndarray, " n"]
    probability_before: Float32[np.ndarray, " n"]
    probability_after: Float32[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class AblationPreview:
    """A model with and without components, on the same images.

    Parameters
    ----------
    samples, right
        int64[n], numbers of the images, and the correct logit of each.
    sets
        Predictions on the original images and, if an artefact was given, on the images with it.
    """

    target: int
    components: tuple[Component, ...]
    samples: Int64[np.ndarray, " n"]
    right: Int64[np.ndarray, " n"]
    sets: tuple[Predictions, ...]

    def accuracy(self, predictions: Predictions, target: int | None = None) -> RateChange:
        """Return the accuracy on all images, or on those of one class (its recall)."""
        mask = slice(None) if target is None else self.right == target
        return RateChange.of(
            (predictions.before == self.right)[mask], (predictions.after == self.right)[mask]
        )

    def mistaken(self, predictions: Predictions) -> RateChange | None:
        """Return the rate at which images of other classes are predicted as the target class.

        None if there are no images of other classes.
        """
        mask = self.right != self.target
        if not mask.any():
            return None
        return RateChange.of(
            (predictions.before == self.target)[mask], (predictions.after == self.target)[mask]
        )


def preview_samples(
    database: Database,
    target: int,
    per_class: int = PER_CLASS,
    at_most: int = AT_MOST,
    seed: int = 0,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Draw readable samples, the same number of each class, and return them and their logits.

    The target class comes first: if ``at_most`` leaves too little room, other classes have fewer.

    Raises
    ------
    DataError
        If the class has no samples.
    """
    class_samples(database, target, 1)  # raises an error that lists the classes with samples
    logit = true_classes(database)
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(~np.isnan(logit)))
    right = logit[shuffled].astype(np.int64)
    rank = pd.Series(right).groupby(right).cumcount().to_numpy()  # of each sample in its class
    # the target class first, then round by round one sample of each other class
    order = np.lexsort((rank, right != target))
    samples = np.sort(shuffled[order[rank[order] < per_class][:at_most]])
    return samples, logit[samples].astype(np.int64)


@lens("model", "images")
def ablation_preview(
    database: Database,
    target: Class,
    components: Components,
    *,
    artefact: Artefact | str | None = None,
    per_class: Annotated[int, setting("Images of each class.", ge=1)] = PER_CLASS,
    at_most: Annotated[int, setting("Images of all classes.", ge=1)] = AT_MOST,
    seed: Annotated[
        int, setting("Seed for the sampling of images and the artefact's positions.", ge=0)
    ] = 0,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
    samples: Sequence[int] | np.ndarray | None = None,
) -> AblationPreview:
    """Run a model with and without components; its weights are not changed.

    Parameters
    ----------
    artefact
        Also run the model on the images with this artefact inserted.
    per_class, at_most
        Number of images, see :func:`preview_samples`.
    seed
        With the same seed, :func:`sensitivity` inserts the artefact at the same positions.
    samples
        Numbers of images of known class, in place of those that are drawn.

    Raises
    ------
    LayerError
        If no component is given, or one is not in the database.
    DataError
        If the class has no samples, or the model lacks a class.
    ModelError
        If the model outputs no logits of classes.
    """
    images = database.images
    sources: dict[str, ImageReader] = {CLEAN: images.read}
    for item in as_artefacts(artefact or ()):
        sources[item.name] = lambda sample, item=item: insert_drawn(
            images.read(sample), [item], seed, sample
        )
    if samples is None:
        drawn, right = preview_samples(database, target, per_class, at_most, seed)
    else:
        drawn = np.array(sample_numbers(samples), np.int64)
        right = true_classes(database)[drawn].astype(np.int64)
    sets = tuple(
        _predict(database.model, name, read, drawn, right, components, batch_size)
        for name, read in sources.items()
    )
    return AblationPreview(target, tuple(components), drawn, right, sets)


def _predict(
    model: SubjectModel,
    name: str,
    reader: ImageReader,
    samples: Int64[np.ndarray, " n"],
    right: Int64[np.ndarray, " n"],
    components: Sequence[Component],
    batch_size: int,
) -> Predictions:
    """Return the predicted classes with and without components; images are decoded once."""
    predicted: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    probability: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for batch in batches(model, reader, samples.tolist(), batch_size, name):
        for run, scores in enumerate(compare_ablated(model, batch, components)):
            check_targets(right, scores.shape[1])
            scores = scores.float().cpu()
            predicted[run].append(model.answer.predicted(scores).numpy())
            probabilities = model.answer.probabilities(scores)
            if probabilities is not None:
                probability[run].append(probabilities.amax(1).numpy())
    return Predictions(name, *map(np.concatenate, predicted), *map(np.concatenate, probability))


def components_to_remove(
    database: Database, audit: Audit, reviews: Mapping[str, Review]
) -> list[Component]:
    """Return the components that a repair of a class removes, the most relevant first.

    These are the spurious ones if the audit raises the alarm or a suspicion, and those that a
    person has marked as spurious; without those that a person has dismissed.

    Raises
    ------
    DataError
        If there are none.
    """
    found = [str(component) for component in audit.spurious] if audit.standing.flagged else []
    marked = [name for name, review in reviews.items() if review.status == "spurious"]
    dismissed = {name for name, review in reviews.items() if review.status == "dismissed"}
    names = [name for name in dict.fromkeys([*found, *marked]) if name not in dismissed]
    if not names:
        raise DataError(
            f"There is nothing to repair: '{audit.name}' raises no alarm and no suspicion, and no "
            "component is marked as spurious.",
            "Expected spurious components behind either, or components that you marked.",
            "Mark components as spurious on their card, on the map or among the unexpected ones.",
        )
    return by_relevance(database, audit.target, [Component.parse(name) for name in names])


def by_relevance(database: Database, target: int, components: list[Component]) -> list[Component]:
    """Sort components by their mean relevance for a class, the largest first."""
    shares = mean_shares(database, target)
    rows = dict(zip(components, database.rows_of(components), strict=True))
    return sorted(components, key=lambda one: (-shares[rows[one]], rows[one]))


TRACED = 24
"""Images that relevance is computed on, with and without the artefact."""
STEPS = 2
"""Times that the number of components is doubled."""
FEWEST = 4
"""Components of the first step, at least."""


@dataclass(frozen=True, eq=False)
class Step:
    """What removing further components does, in addition to those that were removed.

    Parameters
    ----------
    added
        The further components, the largest share of the artefact's effect first.
    taken
        Whether each image with the artefact is taken for the class, before and without all.
    accuracy
        On the original images, without and with the further components.
    """

    added: tuple[Component, ...]
    taken: RateChange
    accuracy: RateChange


def next_components(
    database: Database,
    preview: AblationPreview,
    artefact: Pieces,
    remaining: Bool[np.ndarray, " n"],
    seed: int = 0,
) -> list[Step]:
    """Remove further components, those that an artefact makes most relevant for the class.

    A component's share of the artefact's effect is the mean difference of its share of its layer's
    relevance for the class, with the artefact and without it, on the same images.

    Parameters
    ----------
    preview
        Predictions without the components that were removed so far.
    remaining
        Which images with the artefact are still taken for the class; relevance is computed on them.

    Returns
    -------
    list of Step
        Each adds twice as many components; empty if there are no further components.
    """
    ranked = _ranked(database, preview, artefact, remaining, seed)
    steps: list[Step] = []
    count = max(FEWEST, len(preview.components) // 2)
    others = preview.right != preview.target
    for _ in range(STEPS):
        added = tuple(ranked[:count])
        if not added or (steps and len(added) == len(steps[-1].added)):
            break
        without = ablation_preview(
            database, preview.target, [*preview.components, *added], artefact=artefact,
            seed=seed, samples=preview.samples,
        )  # fmt: skip
        clean, marked = without.sets
        before, after = preview.sets[1].after[others], marked.after[others]
        right = preview.right
        steps.append(
            Step(
                added,
                RateChange.of(before == preview.target, after == preview.target),
                RateChange.of(preview.sets[0].after == right, clean.after == right),
            )
        )
        count *= 2
    return steps


def _ranked(
    database: Database,
    preview: AblationPreview,
    artefact: Pieces,
    remaining: Bool[np.ndarray, " n"],
    seed: int,
) -> list[Component]:
    """Return the other components whose relevance the artefact raises, most first."""
    samples = preview.samples[remaining][:TRACED].tolist()
    marked = WithArtefact(database.images, [artefact], seed=seed)
    try:
        jobs = [make_job(database, preview.target, samples, images) for images in (None, marked)]
        without, with_mark = map(component_shares, jobs)
    except RelevanceError:  # the rules do not fit the model
        return []
    removed = set(preview.components)
    rises: list[tuple[float, int, Component]] = []
    for entry in jobs[0].entries:
        rise = (with_mark[entry.name] - without[entry.name]).mean(0)
        for index in np.flatnonzero(rise > 0).tolist():
            component = database.component(entry.first + index)
            if component not in removed:
                rises.append((-float(rise[index]), entry.first + index, component))
    return [component for _, _, component in sorted(rises)]
