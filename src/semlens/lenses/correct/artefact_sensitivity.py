"""Accuracy with and without artefacts, of a model and its corrections (paper, F.2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from rich.console import RenderableType

from semlens.data.artefact import Artefact, Artefacts, WithArtefact, as_artefacts
from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError
from semlens.figures import FigureSpec, Series, Values
from semlens.lens import lens
from semlens.lenses.accuracy import Evaluation, LabelledImages, evaluate_labelled, labelled_images
from semlens.lenses.arguments import AnyComponents
from semlens.lenses.correct.corrected_model import with_weights
from semlens.lenses.result import Result
from semlens.lenses.statistics.intervals import change_interval, wilson_interval
from semlens.models.ablation import pruned
from semlens.models.subject import SubjectModel
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, as_list

VANILLA, CLEAN, PRUNED, ALL = "vanilla", "clean", "pruned", "all"
MAX_PANELS = 4
"""Largest number of classes that have a panel each."""
COLUMNS = (
    "model", "images", "class", "samples", "accuracy", "low", "high", "change", "change_low",
    "change_high", "logit", "other_logit", "removed",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Sensitivity(Result):
    """Accuracy of models on sets of images with and without artefacts.

    Parameters
    ----------
    frame
        One row per model, set of images and class (``all`` first): ``accuracy`` with its 95 %
        interval ``low``, ``high`` (Wilson); ``change`` from the first set, with an interval;
        ``logit``, the mean logit of the correct class, and ``other_logit``, of the strongest
        other class; for ``all`` also ``removed``, the fraction of the first model's loss of
        accuracy that this model avoids, ``1 - change / change of the first model``.
    """

    frame: pd.DataFrame

    @property
    def models(self) -> list[str]:
        """Names of the models, in order."""
        return list(dict.fromkeys(self.frame["model"]))

    @property
    def sets(self) -> list[str]:
        """Names of the sets of images, in order; the first is the reference."""
        return list(dict.fromkeys(self.frame["images"]))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "models": self.models,
            "images": self.sets,
            "rows": self.frame.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return accuracies and their changes, by set and model (paper, Fig. F.13)."""
        classes = [name for name in dict.fromkeys(self.frame["class"]) if name != ALL]
        panels = [self._panel(ALL, "accuracy", self.sets, ("accuracy", "low", "high"))]
        if len(self.sets) > 1:
            axis = f"change from '{self.sets[0]}'"
            for name in [ALL, *(classes if len(classes) <= MAX_PANELS else [])]:
                columns = "change", "change_low", "change_high"
                panels.append(self._panel(name, axis, self.sets[1:], columns))
        return FigureSpec("Accuracy with and without artefacts", panels)

    def _panel(
        self, of_class: str, axis: str, sets: list[str], columns: tuple[str, str, str]
    ) -> Values:
        series: list[Series] = []
        for model in self.models:
            rows: Any = self.frame[
                (self.frame["model"] == model) & (self.frame["class"] == of_class)
            ]
            value, low, high = (rows.set_index("images").reindex(sets)[c].tolist() for c in columns)
            series.append(Series(value, model, low, high))
        title = "All classes" if of_class == ALL else of_class
        limits = (0.0, 1.0) if axis == "accuracy" else None
        return Values(title, sets, series, axis, limits=limits)

    def __rich__(self) -> RenderableType:
        """Return the rows over all classes."""
        all_classes: Any = self.frame[self.frame["class"] == ALL]
        return rich_table(
            all_classes,
            "Accuracy over all classes (95 % interval)",
            ["model", "images", "samples", "accuracy", "low", "high", "change", "removed"],
        )


Weights = Mapping[str, SubjectModel | str | Path] | str | Path | Iterable[str | Path]
"""Further weights of a model: models or files by name, or files ("NAME=FILE" or "FILE")."""
ImageSets = Mapping[str, Images | str | Path] | Images | str | Path | Iterable[str | Path]
"""Sets of images: objects or SPECs by name, or SPECs ("NAME=SPEC" or "SPEC")."""


@lens("model", "images", group="Correct", command="")
def sensitivity(
    database: Database,
    artefacts: Artefacts = (),
    *,
    prune: AnyComponents = (),
    weights: Weights = (),
    images: ImageSets = (),
    only: Annotated[
        str | None, setting("Use only images whose file name starts with this (test-).")
    ] = None,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
    seed: Annotated[int, setting("Seed for the artefacts' positions.", ge=0)] = 0,
) -> Sensitivity:
    """Measure how much accuracy artefacts cost a model, before and after corrections.

    Parameters
    ----------
    artefacts
        Each is inserted into the clean images, which gives another set.
    prune
        Components to remove: the model without them is measured too, as ``pruned``.
    weights
        Further weights of the model, such as retrained ones.
    images
        Sets of images with class names, the clean one first; by default the database's images.

    Raises
    ------
    DataError
        If names collide, or no image has a known class.
    ModelError
        If weights do not fit, or the model outputs no logits of classes.

    Examples
    --------
    >>> result = db.sensitivity("hue", prune=["layer4:17"])            # doctest: +SKIP
    >>> result.to_pandas().query("`class` == 'all'")                   # doctest: +SKIP
    """
    inserted = as_artefacts(artefacts)
    models = {
        VANILLA: database.model,
        **{
            name: value if isinstance(value, SubjectModel) else with_weights(database.model, value)
            for name, value in by_name(weights, VANILLA).items()
        },
    }
    sets = {
        name: labelled_images(database, as_images(value), only)
        for name, value in by_name(images, first=CLEAN).items()
    } or {CLEAN: labelled_images(database, only=only)}
    return accuracies(
        models, with_artefacts(sets, inserted, seed), prune=prune, batch_size=batch_size
    )


def by_name(values: Any, *reserved: str, first: str = "") -> dict[str, Any]:
    """Return values by name: from a mapping, from "NAME=VALUE", or named after their files.

    The name of the first value without one is ``first``, if that is given.
    """
    named: dict[str, Any] = {}
    for item in values.items() if isinstance(values, Mapping) else as_list(values):
        name, value = item if isinstance(item, tuple) else ("", item)
        before, equals, after = str(item).partition("=")
        if isinstance(item, str) and equals and "/" not in before:
            name, value = before, after
        name = name or (first if not named else "") or Path(str(value)).stem
        if name in named or name in reserved:
            raise DataError(
                f"The name '{name}' is used twice.",
                "Expected different names.",
                "Name them as NAME=VALUE.",
            )
        named[name] = value
    return named


def with_artefacts(
    sets: Mapping[str, LabelledImages], artefacts: Sequence[Artefact], seed: int = 0
) -> dict[str, LabelledImages]:
    """Add a set for each artefact, inserted into the images of the first set.

    Raises
    ------
    DataError
        If there is no set, or two have the same name.
    """
    if not sets:
        raise DataError("No images are given.", "Expected at least one set.", "Give images.")
    clean, result = next(iter(sets.values())), dict(sets)
    names = [artefact.name for artefact in artefacts]
    for artefact in artefacts:
        short = names.count(artefact.name) == 1 and artefact.name not in result
        name = artefact.name if short else artefact.spec
        if name in result:
            raise DataError(
                f"Two sets of images are named '{name}'.",
                "Expected different names.",
                "Rename one, or leave out one artefact.",
            )
        result[name] = replace(clean, images=WithArtefact(clean.images, artefact, seed=seed))
    return result


def accuracies(
    models: Mapping[str, SubjectModel],
    sets: Mapping[str, LabelledImages],
    *,
    prune: Sequence[Component] = (),
    batch_size: int = 32,
) -> Sensitivity:
    """Measure the accuracy of models on sets of images; the first of each is the reference.

    Parameters
    ----------
    prune
        Components to remove: the first model without them is measured too, as ``pruned``.

    Raises
    ------
    DataError
        If there is no model, or names collide.
    """
    variants: list[tuple[str, SubjectModel, Sequence[Component]]] = [
        (name, model, ()) for name, model in models.items()
    ]
    if variants and prune:
        variants.insert(1, (PRUNED, variants[0][1], prune))
    names = [name for name, _, _ in variants]
    if len(set(names)) < max(len(names), 1):
        raise DataError(
            f"The models are {', '.join(names) or 'none'}.",
            "Expected at least one model, and different names.",
            "Rename one of the models.",
        )
    rows: list[dict[str, Any]] = []
    base: dict[str, float] = {}
    for name, model, removed in variants:
        clean: Evaluation | None = None
        with pruned(model, removed):
            for image_set, data in sets.items():
                evaluation = evaluate_labelled(model, data, batch_size)
                clean = clean or evaluation
                class_rows = list(_rows(evaluation, clean))
                change = class_rows[0]["change"]
                loss = base.setdefault(image_set, change)
                class_rows[0]["removed"] = 1 - change / loss if loss < 0 else float("nan")
                rows += [{"model": name, "images": image_set, **row} for row in class_rows]
    return Sensitivity(pd.DataFrame(rows, columns=list(COLUMNS)))


def _rows(evaluation: Evaluation, clean: Evaluation) -> Iterator[dict[str, Any]]:
    """Yield the row over all classes, and one per class."""
    data, clean_data = evaluation.data, clean.data
    paired = np.array_equal(data.samples, clean_data.samples) and (
        list(data.images.ids) == list(clean_data.images.ids)
    )
    for target in (None, *np.unique(evaluation.targets).tolist()):
        mask = evaluation.of_class(target)
        correct, clean_correct = evaluation.correct[mask], clean.correct[clean.of_class(target)]
        low, high = wilson_interval(int(correct.sum()), len(correct))
        change, change_low, change_high = change_interval(correct, clean_correct, paired=paired)
        yield {
            "class": ALL if target is None else evaluation.name_of(target),
            "samples": len(correct),
            "accuracy": float(correct.mean()),
            "low": low,
            "high": high,
            "change": change,
            "change_low": change_low,
            "change_high": change_high,
            "logit": float(evaluation.logit[mask].mean()),
            "other_logit": float(evaluation.best_other[mask].mean()),
            "removed": float("nan"),
        }
