"""Retraining with artefacts inserted at random, so that they carry no information (4.3.3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.data.artefact import Artefact, Artefacts, WithArtefact, as_artefacts
from semlens.data.load import ImagesLike, as_images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError, nearest
from semlens.figures import FigureSpec, Point, Scatter
from semlens.lens import lens
from semlens.lenses.accuracy import LabelledImages, evaluate_labelled, labelled_images
from semlens.lenses.correct.affected_samples import AffectedSamples
from semlens.lenses.correct.component_files import read_affected
from semlens.lenses.correct.corrected_model import CorrectedModel
from semlens.lenses.correct.fine_tuning import Training, TrainingData, TrainingRun, split_held_out
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.relevance.captured_graph import in_full_precision
from semlens.settings import setting
from semlens.store.reader import Database


@dataclass(frozen=True, repr=False)
class RetrainedModel(CorrectedModel):
    """A fine-tuned model and its training history.

    Parameters
    ----------
    history
        Columns ``epoch``, ``loss``, ``accuracy``, ``accuracy_inserted``, ``seconds``. Both
        accuracies are measured on held-out images, without and with artefacts inserted. Epoch 0
        is the original model.
    artefacts
        SPECs of the inserted artefacts.
    trained_on, held_out, dropped
        Numbers of images.
    """

    history: pd.DataFrame
    settings: Training
    artefacts: tuple[str, ...]
    trained_on: int
    held_out: int
    dropped: int

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per epoch."""
        return self.history.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            **super().to_json(),
            "artefacts": list(self.artefacts),
            "trained_on": self.trained_on,
            "held_out": self.held_out,
            "dropped": self.dropped,
            "settings": self.settings.model_dump(),
            "history": self.history.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the accuracies on the held-out images over the epochs."""
        names = {"accuracy": "original", "accuracy_inserted": "with artefacts"}
        points = [
            Point(float(one["epoch"]), float(one[column]), group=group)
            for column, group in names.items()
            for one in self.history.to_dict("records")
        ]
        axis = "epoch (0: before training)"
        panel = Scatter("Held-out images", points, axis, "accuracy", joined=True)
        return FigureSpec("Accuracy during retraining", [panel])

    def __rich__(self) -> RenderableType:
        """Return the epochs as a table."""
        return Group(
            Text(
                f"Trained on {self.trained_on} images with {', '.join(self.artefacts)}; "
                f"{self.dropped} dropped, {self.held_out} held out"
            ),
            rich_table(self.history),
        )


@lens("model", "images", group="Correct", command="", local=True)
def retrain(
    database: Database,
    artefacts: Artefacts,
    drop: AffectedSamples | str | Path | Sequence[int | str] = (),
    *,
    images: ImagesLike | None = None,
    only: Annotated[
        str | None, setting("Use only images whose file name starts with this (train-).")
    ] = None,
    settings: Training | None = None,
    checkpoint: str | Path | None = None,
) -> RetrainedModel:
    """Fine-tune a copy of a model, with artefacts inserted at random and affected images left out.

    An artefact that is equally frequent in all classes carries no information about the class.
    The database's model is not changed.

    Parameters
    ----------
    artefacts
        Artefacts to insert; one is drawn for each image that gets one.
    drop
        Affected samples: the result of :func:`affected` or a file of it, or numbers or ids.
    images
        Training images with class names; by default the database's.
    checkpoint
        File that is written after every epoch. The same call resumes from it.

    Raises
    ------
    DataError
        If a class would lose all its images, or too few are left to train on.
    StoreError
        If the checkpoint belongs to a different run.

    Examples
    --------
    >>> affected = db.affected(db.search("watermark", top=8), all_data=True)   # doctest: +SKIP
    >>> db.retrain("text:© stock", affected).history                           # doctest: +SKIP
    """
    inserted = as_artefacts(artefacts)
    if isinstance(drop, AffectedSamples):
        drop = drop.samples
    elif isinstance(drop, str | Path):
        drop = read_affected(Path(drop))
    data = labelled_images(database, None if images is None else as_images(images), only)
    return fine_tune(database.model, data, inserted, drop, settings=settings, checkpoint=checkpoint)


def fine_tune(
    model: SubjectModel,
    data: LabelledImages,
    artefacts: Sequence[Artefact],
    drop: Sequence[int | str] = (),
    *,
    settings: Training | None = None,
    checkpoint: str | Path | None = None,
) -> RetrainedModel:
    """Fine-tune as :func:`retrain` does, for any model and images; ``drop`` is numbers or ids."""
    settings = settings or Training()
    model = model.with_dictionaries(())
    if not artefacts:
        raise DataError(
            "No artefact is given.", "Expected at least one to insert.", "Give an artefact."
        )
    remaining = _drop_samples(data, drop, model.classes)
    train, held = (
        replace(remaining, samples=remaining.samples[part], targets=remaining.targets[part])
        for part in split_held_out(remaining.samples, remaining.targets, settings)
    )
    module = copy.deepcopy(in_full_precision(model.module)).eval()
    learner = replace(model, module=module, spec="python:retrained")
    training_data = TrainingData(train.images, train.samples, train.targets, tuple(artefacts))
    specs = tuple(artefact.spec for artefact in artefacts)
    identity = fingerprint(
        model.fingerprint, list(data.images.ids), train.samples.tolist(),
        train.targets.tolist(), list(specs), settings.model_dump(),
    )  # fmt: skip
    training = TrainingRun(
        learner, training_data, settings, identity, None if checkpoint is None else Path(checkpoint)
    )
    sets = {
        "accuracy": held,
        "accuracy_inserted": replace(held, images=WithArtefact(data.images, artefacts)),
    }

    def measure() -> dict[str, float]:
        if len(held.samples) == 0:
            return dict.fromkeys(sets, float("nan"))
        return {name: evaluate_labelled(learner, part).accuracy for name, part in sets.items()}

    return RetrainedModel(
        learner, model.spec, pd.DataFrame(training.train(measure)), settings, specs,
        len(train.samples), len(held.samples), len(data.samples) - len(remaining.samples),
    )  # fmt: skip


def _drop_samples(
    data: LabelledImages, drop: Sequence[int | str], classes: Sequence[str] | None
) -> LabelledImages:
    """Leave out samples, given by number or id."""
    index = {name: sample for sample, name in enumerate(data.images.ids)}
    dropped = [index.get(item, -1) if isinstance(item, str) else int(item) for item in drop]
    for item, sample in zip(drop, dropped, strict=True):
        if not 0 <= sample < len(index):
            raise DataError(
                f"The sample '{item}' to drop is not in '{data.images.spec}'.",
                f"Expected a number below {len(index)}, or an id such as "
                f"{nearest(str(item), index)}.",
                "Correct the list of samples to drop.",
            )
    keep = ~np.isin(data.samples, dropped)
    missing = sorted({*data.targets.tolist()} - {*data.targets[keep].tolist()})
    if missing:
        raise DataError(
            f"Class {classes[missing[0]] if classes else missing[0]} would lose all its images.",
            "Expected at least one image that is not dropped.",
            "Drop fewer samples, or add images of the class without the artefact.",
        )
    return replace(data, samples=data.samples[keep], targets=data.targets[keep])
