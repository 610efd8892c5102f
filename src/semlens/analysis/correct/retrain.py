"""Retraining so that an artefact carries no information (paper, 4.3.3)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.correct.export import save_weights, with_weights
from semlens.analysis.correct.training import Material, Progress, Run, Training, held_out
from semlens.analysis.evaluate import evaluate_model
from semlens.analysis.result import Result
from semlens.data.artefact import Artefact
from semlens.data.images import Images
from semlens.data.targets import map_targets
from semlens.data.with_artefact import WithArtefact
from semlens.errors import DataError, nearest
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.relevance.graph import in_full_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Retrained(Result):
    """A model that was trained on, and how that went."""

    model: SubjectModel
    """A copy with new weights; :meth:`save_weights` gives it a SPEC."""
    base: str
    """SPEC of the model before."""
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

    def save_weights(self, path: str | Path) -> SubjectModel:
        """Write the weights as safetensors, and return the model with a SPEC that loads them.

        Raises
        ------
        ModelError
            If the path does not end in ``.safetensors``.
        StoreError
            If it cannot be written.
        """
        file = save_weights(path, self.model.module.state_dict())
        return with_weights(replace(self.model, spec=self.base), file)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per epoch."""
        return self.history.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "model": self.base,
            "artefacts": list(self.artefacts),
            "trained_on": self.trained_on,
            "held_out": self.held_out,
            "dropped": self.dropped,
            "settings": asdict(self.settings),
            "history": self.history.to_dict("records"),
        }

    def plot(self) -> Figure:
        """Draw the accuracies on the held-out images over the epochs."""
        from semlens.draw.sensitivity_plot import history_plot

        return history_plot(self.history)

    def __rich__(self) -> RenderableType:
        """Return the epochs as a table."""
        from semlens.draw.table import rich_table

        head = (
            f"Trained on {self.trained_on} images with {', '.join(self.artefacts)}; "
            f"{self.dropped} dropped, {self.held_out} held out"
        )
        return Group(Text(head), rich_table(self.history))


def retrain(
    model: SubjectModel,
    images: Images,
    artefacts: Sequence[Artefact],
    drop: Sequence[int | str] = (),
    *,
    samples: Sequence[int] | None = None,
    targets: Sequence[int | None] | None = None,
    settings: Training | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Retrained:
    """Fine-tune a copy of a model, with artefacts inserted at random and affected images left out.

    An artefact that is on images of every class alike says nothing about the class. The model
    that is given stays as it is.

    Parameters
    ----------
    artefacts
        What is overlaid, one drawn for each image that gets one; made by hand or cut out.
    drop
        Numbers or ids of the affected samples (``affected(...).samples``).
    samples
        Samples to train on; all by default.
    targets
        Logit of each sample; by default found by class name.
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
    >>> import semlens as sl
    >>> model, images = db.load_model(), db.load_images()               # doctest: +SKIP
    >>> found = sl.affected(db, components, images, model)              # doctest: +SKIP
    >>> text = sl.load_artefact("text:© stock")                         # doctest: +SKIP
    >>> sl.retrain(model, images, [text], drop=found.samples).history   # doctest: +SKIP
    """
    settings = settings or Training()
    if not artefacts:
        raise DataError("There is no artefact to insert.", "Expected at least one.", "Name some.")
    kept, logits, dropped = _chosen(model, images, drop, samples, targets)
    train, aside = held_out(kept, logits, settings)
    module = copy.deepcopy(in_full_precision(model.module)).eval()
    learner = replace(model, module=module, spec=f"python:retrained {model.spec}")
    material = Material(images, kept[train], logits[train], tuple(artefacts))
    specs = tuple(artefact.spec for artefact in artefacts)
    identity = fingerprint(
        model.fingerprint, list(images.ids), material.samples.tolist(),
        material.targets.tolist(), list(specs), asdict(settings),
    )  # fmt: skip
    run = Run(
        learner, material, settings, identity, None if checkpoint is None else Path(checkpoint)
    )
    history = run.go(_measure(learner, images, artefacts, kept[aside], logits[aside]), progress)
    return Retrained(
        learner, model.spec, pd.DataFrame(history), settings, specs, len(train), len(aside), dropped
    )


def _chosen(
    model: SubjectModel,
    images: Images,
    drop: Sequence[int | str],
    samples: Sequence[int] | None,
    targets: Sequence[int | None] | None,
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], int]:
    """Return samples with a logit that are not dropped, their logits, and how many were."""
    if targets is None:
        targets = map_targets(images.targets, len(images), model.classes, model.synsets).logits
    chosen = range(len(images)) if samples is None else samples
    known = [i for i in chosen if targets[i] is not None]
    gone = _numbers(images, drop)
    kept = [i for i in known if i not in gone]
    lost = {targets[i] for i in known} - {targets[i] for i in kept}
    if lost:
        names = [model.classes[c] if model.classes else str(c) for c in lost if c is not None]
        raise DataError(
            f"The class {sorted(names)[0]} would lose all its images.",
            "Expected at least one that is not dropped.",
            "Drop fewer samples, or add images of the class without the artefact.",
        )
    if not kept:
        raise DataError(
            "No image has a class that the model knows.",
            "Expected class folders named as the model's classes or WordNet ids.",
            "Map them with --classes FILE or --targets CSV.",
        )
    logits = np.array([targets[i] for i in kept], np.int64)
    return np.array(kept, np.int64), logits, len(known) - len(kept)


def _numbers(images: Images, drop: Sequence[int | str]) -> set[int]:
    """Return the numbers of samples that are given by number or id."""
    place = {name: number for number, name in enumerate(images.ids)}
    found: set[int] = set()
    for one in drop:
        number = place.get(one) if isinstance(one, str) else int(one)
        if number is None or not 0 <= number < len(images):
            raise DataError(
                f"The sample '{one}' to be dropped is not in '{images.spec}'.",
                f"Expected a number below {len(images)}, or an id such as "
                f"{nearest(str(one), place)}.",
                "Correct the list.",
            )
        found.add(number)
    return found


def _measure(
    model: SubjectModel,
    images: Images,
    artefacts: Sequence[Artefact],
    samples: Int64[np.ndarray, " n"],
    logits: Int64[np.ndarray, " n"],
) -> Callable[[], dict[str, float]]:
    """Return what measures accuracy on held-out samples, as they are and with artefacts."""
    targets: list[int | None] = [None] * len(images)
    for sample, logit in zip(samples, logits, strict=True):
        targets[sample] = int(logit)
    inserted = WithArtefact(images, artefacts)

    def measure() -> dict[str, float]:
        if len(samples) == 0:
            return {"accuracy": float("nan"), "accuracy_inserted": float("nan")}
        chosen = samples.tolist()
        return {
            "accuracy": evaluate_model(model, images, targets, chosen).accuracy,
            "accuracy_inserted": evaluate_model(model, inserted, targets, chosen).accuracy,
        }

    return measure
