"""Retraining so that an artefact carries no information (paper, 4.3.3)."""

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

from semlens.analysis.correct.affected_samples import AffectedSamples
from semlens.analysis.correct.component_files import read_affected
from semlens.analysis.correct.corrected_model import CorrectedModel
from semlens.analysis.correct.fine_tuning import Training, TrainingData, TrainingRun, held_out
from semlens.analysis.evaluate import LabelledImages, answers, labelled
from semlens.analysis.result import Chart
from semlens.data.artefact import Artefact, Artefacts, WithArtefact, as_artefacts
from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError, nearest
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.relevance.captured_graph import in_full_precision
from semlens.settings import question, setting
from semlens.store.reader import Database


@dataclass(frozen=True, repr=False)
class RetrainedModel(CorrectedModel):
    """A model that was trained on, and how that went."""

    history: pd.DataFrame
    """Columns ``epoch``, ``loss``, ``accuracy``, ``accuracy_inserted``, ``seconds``.

    Both accuracies are on images that were held out, as they are and with artefacts
    inserted. Epoch 0 is the model before.
    """
    settings: Training
    artefacts: tuple[str, ...]
    """SPECs of what was inserted."""
    trained_on: int
    held_out: int
    dropped: int

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per epoch."""
        return self.history.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            **super().to_json(),
            "artefacts": list(self.artefacts),
            "trained_on": self.trained_on,
            "held_out": self.held_out,
            "dropped": self.dropped,
            "settings": self.settings.model_dump(),
            "history": self.history.to_dict("records"),
        }

    def plot(self) -> Chart:
        """Draw the accuracies on the held-out images over the epochs."""
        from semlens.draw.correct_plots import history_plot

        return history_plot(self.history)

    def __rich__(self) -> RenderableType:
        """Return the epochs as a table."""
        return Group(
            Text(
                f"Trained on {self.trained_on} images with {', '.join(self.artefacts)}; "
                f"{self.dropped} dropped, {self.held_out} held out"
            ),
            rich_table(self.history),
        )


@question("model", "images")
def retrain(
    database: Database,
    artefacts: Artefacts,
    drop: AffectedSamples | str | Path | Sequence[int | str] = (),
    *,
    images: Images | str | Path | Sequence[Any] | None = None,
    only: Annotated[str | None, setting("Only images whose file name starts so (train-).")] = None,
    settings: Training | None = None,
    checkpoint: str | Path | None = None,
) -> RetrainedModel:
    """Fine-tune a copy of a model, with artefacts inserted at random and affected images left out.

    An artefact that is on images of every class alike says nothing about the class. The
    database's model stays as it is.

    Parameters
    ----------
    artefacts
        What is overlaid, one drawn for each image that gets one; made by hand or cut out.
    drop
        The affected samples: the answer of :func:`affected`, numbers or ids, or a file of it.
    images
        Training images with class names; by default the database's.
    checkpoint
        File that is written after every epoch. The same call goes on from it.

    Raises
    ------
    DataError
        If a class would lose all its images, or nothing is left to train on.
    StoreError
        If the checkpoint is of another run.

    Examples
    --------
    >>> found = db.affected(db.search("watermark", top=8), all_data=True)   # doctest: +SKIP
    >>> db.retrain("text:© stock", found).history                           # doctest: +SKIP
    """
    overlaid = as_artefacts(artefacts)
    if isinstance(drop, AffectedSamples):
        drop = drop.samples
    elif isinstance(drop, str | Path):
        drop = read_affected(Path(drop))
    data = labelled(database, None if images is None else as_images(images), only)
    return fine_tune(database.model, data, overlaid, drop, settings=settings, checkpoint=checkpoint)


def fine_tune(
    model: SubjectModel,
    data: LabelledImages,
    artefacts: Sequence[Artefact],
    drop: Sequence[int | str] = (),
    *,
    settings: Training | None = None,
    checkpoint: str | Path | None = None,
) -> RetrainedModel:
    """Do what :func:`retrain` does for any model and images; ``drop`` has numbers or ids."""
    settings = settings or Training()
    if not artefacts:
        raise DataError("There is no artefact to insert.", "Expected at least one.", "Name some.")
    kept = _without(data, drop, model.classes)
    train, aside = (
        replace(kept, samples=kept.samples[part], targets=kept.targets[part])
        for part in held_out(kept.samples, kept.targets, settings)
    )
    module = copy.deepcopy(in_full_precision(model.module)).eval()
    learner = replace(model, module=module, spec="python:retrained")
    material = TrainingData(train.images, train.samples, train.targets, tuple(artefacts))
    specs = tuple(artefact.spec for artefact in artefacts)
    identity = fingerprint(
        model.fingerprint, list(data.images.ids), train.samples.tolist(),
        train.targets.tolist(), list(specs), settings.model_dump(),
    )  # fmt: skip
    run = TrainingRun(
        learner, material, settings, identity, None if checkpoint is None else Path(checkpoint)
    )
    sets = {
        "accuracy": aside,
        "accuracy_inserted": replace(aside, images=WithArtefact(data.images, artefacts)),
    }

    def measure() -> dict[str, float]:
        if len(aside.samples) == 0:
            return dict.fromkeys(sets, float("nan"))
        return {name: answers(learner, part).accuracy for name, part in sets.items()}

    return RetrainedModel(
        learner, model.spec, pd.DataFrame(run.go(measure)), settings, specs,
        len(train.samples), len(aside.samples), len(data.samples) - len(kept.samples),
    )  # fmt: skip


def _without(
    data: LabelledImages, drop: Sequence[int | str], classes: Sequence[str] | None
) -> LabelledImages:
    """Leave samples out that are given by number or id."""
    place = {name: number for number, name in enumerate(data.images.ids)}
    gone = [place.get(one, -1) if isinstance(one, str) else int(one) for one in drop]
    for one, number in zip(drop, gone, strict=True):
        if not 0 <= number < len(place):
            raise DataError(
                f"The sample '{one}' to be dropped is not in '{data.images.spec}'.",
                f"Expected a number below {len(place)}, or an id such as "
                f"{nearest(str(one), place)}.",
                "Correct the list.",
            )
    kept = ~np.isin(data.samples, gone)
    lost = sorted({*data.targets.tolist()} - {*data.targets[kept].tolist()})
    if lost:
        raise DataError(
            f"The class {classes[lost[0]] if classes else lost[0]} would lose all its images.",
            "Expected at least one that is not dropped.",
            "Drop fewer samples, or add images of the class without the artefact.",
        )
    return replace(data, samples=data.samples[kept], targets=data.targets[kept])
