"""Accuracy on clean images and with artefacts, before and after a correction (paper, F.2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from rich.console import RenderableType

from semlens.analysis.correct.corrected_model import with_weights
from semlens.analysis.evaluate import Evaluation, LabelledImages, answers, labelled
from semlens.analysis.result import Chart, Result
from semlens.data.artefact import Artefact, Artefacts, WithArtefact, as_artefacts
from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError
from semlens.models.hooks import pruned
from semlens.models.subject import SubjectModel
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Components, as_components, as_list

VANILLA, CLEAN, PRUNED, ALL = "vanilla", "clean", "pruned", "all"
Z = 1.959964
"""Of a 95 % interval."""
COLUMNS = (
    "model", "images", "class", "samples", "accuracy", "low", "high", "change", "change_low",
    "change_high", "logit", "other_logit", "removed",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Sensitivity(Result):
    """How accuracy changes with artefacts, model by model."""

    frame: pd.DataFrame
    """One row per model, set of images and class (``all`` first).

    ``accuracy`` with its 95 % interval ``low``, ``high`` (Wilson); ``change`` from the first
    set, with an interval; ``logit``, the mean logit of the right class, and ``other_logit``,
    of the strongest other one; ``removed``, for ``all``: what share of the first model's
    loss of accuracy this one does without, ``1 - change / change of the first``.
    """

    @property
    def models(self) -> list[str]:
        """The models, in order."""
        return list(dict.fromkeys(self.frame["model"]))

    @property
    def sets(self) -> list[str]:
        """The sets of images, in order; the first is what the others are compared with."""
        return list(dict.fromkeys(self.frame["images"]))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "models": self.models,
            "images": self.sets,
            "rows": self.frame.to_dict("records"),
        }

    def plot(self) -> Chart:
        """Draw accuracies and changes as grouped bars (paper, Fig. F.13)."""
        from semlens.draw.correct_plots import sensitivity_plot

        return sensitivity_plot(self.frame)

    def __rich__(self) -> RenderableType:
        """Return the rows over all classes."""
        shown: Any = self.frame[self.frame["class"] == ALL]
        return rich_table(
            shown,
            "Accuracy over all classes (95 % interval)",
            ["model", "images", "samples", "accuracy", "low", "high", "change", "removed"],
        )


Weights = Mapping[str, SubjectModel | str | Path] | str | Path | Iterable[str | Path]
"""Other weights of a model: objects or files by name, or files ("NAME=FILE" or "FILE")."""
ImageSets = Mapping[str, Images | str | Path] | Images | str | Path | Iterable[str | Path]
"""Sets of images: objects or SPECs by name, or SPECs ("NAME=SPEC" or "SPEC")."""


@question("model", "images")
def sensitivity(
    database: Database,
    artefacts: Artefacts = (),
    *,
    prune: Components = (),
    weights: Weights = (),
    images: ImageSets = (),
    only: Annotated[str | None, setting("Only images whose file name starts so (test-).")] = None,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
    seed: Annotated[int, setting("Of the artefacts' places.", ge=0)] = 0,
) -> Sensitivity:
    """Measure how much artefacts cost a model in accuracy, before and after corrections.

    Parameters
    ----------
    artefacts
        Each is inserted into the clean images, as a set of its own.
    prune
        Components without which the model is measured once more, as ``pruned``.
    weights
        Other weights of the model, such as retrained ones.
    images
        Sets of images with class names, of which the first is the clean one; by default the
        database's images.

    Raises
    ------
    DataError
        If names collide, or no image has a known class.
    ModelError
        If weights do not fit, or the model has one logit only.

    Examples
    --------
    >>> found = db.sensitivity("hue", prune=["layer4:17"])             # doctest: +SKIP
    >>> found.to_pandas().query("`class` == 'all'")                    # doctest: +SKIP
    """
    overlaid = as_artefacts(artefacts)
    removed = as_components(prune)
    database.rows_of(removed)
    models = {
        VANILLA: database.model,
        **{
            name: one if isinstance(one, SubjectModel) else with_weights(database.model, one)
            for name, one in _named(weights, VANILLA).items()
        },
    }
    sets = {
        name: labelled(database, as_images(one), only)
        for name, one in _named(images, first=CLEAN).items()
    } or {CLEAN: labelled(database, only=only)}
    return accuracies(
        models, with_artefacts(sets, overlaid, seed), prune=removed, batch_size=batch_size
    )


def _named(given: Any, *taken: str, first: str = "") -> dict[str, Any]:
    """Return values by name; a file without one has its own, unless it comes ``first``."""
    found: dict[str, Any] = {}
    for one in given.items() if isinstance(given, Mapping) else as_list(given):
        name, value = one if isinstance(one, tuple) else ("", one)
        head, mark, rest = str(one).partition("=")
        if isinstance(one, str) and mark and "/" not in head:
            name, value = head, rest
        name = name or (first if not found else "") or Path(str(value)).stem
        if name in found or name in taken:
            raise DataError(
                f"There are two called '{name}'.", "Expected different names.", "Give NAME=."
            )
        found[name] = value
    return found


def with_artefacts(
    sets: Mapping[str, LabelledImages], artefacts: Sequence[Artefact], seed: int = 0
) -> dict[str, LabelledImages]:
    """Add a set for each artefact, inserted into the images of the first set.

    Raises
    ------
    DataError
        If there is no set, or two have one name.
    """
    if not sets:
        raise DataError("There are no images.", "Expected at least one set.", "Name one.")
    clean, found = next(iter(sets.values())), dict(sets)
    kinds = [artefact.name for artefact in artefacts]
    for artefact in artefacts:
        short = kinds.count(artefact.name) == 1 and artefact.name not in found
        name = artefact.name if short else artefact.spec
        if name in found:
            raise DataError(
                f"There are two sets of images called '{name}'.",
                "Expected different names.",
                "Rename one, or leave one artefact out.",
            )
        found[name] = replace(clean, images=WithArtefact(clean.images, artefact, seed=seed))
    return found


def accuracies(
    models: Mapping[str, SubjectModel],
    sets: Mapping[str, LabelledImages],
    *,
    prune: Sequence[Component] = (),
    batch_size: int = 32,
) -> Sensitivity:
    """Measure models on sets of images; the first of both is what the others are compared with.

    Parameters
    ----------
    prune
        Components without which the first model is measured once more, as ``pruned``.

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
            "Expected at least one, each with a name of its own.",
            "Rename one.",
        )
    rows: list[dict[str, Any]] = []
    base: dict[str, float] = {}
    for name, model, removed in variants:
        clean: Evaluation | None = None
        with pruned(model, removed):
            for title, data in sets.items():
                measured = answers(model, data, batch_size)
                clean = clean or measured
                found = list(_rows(measured, clean))
                change = found[0]["change"]
                loss = base.setdefault(title, change)
                found[0]["removed"] = 1 - change / loss if loss < 0 else float("nan")
                rows += [{"model": name, "images": title, **row} for row in found]
    return Sensitivity(pd.DataFrame(rows, columns=list(COLUMNS)))


def _rows(measured: Evaluation, first: Evaluation) -> Iterator[dict[str, Any]]:
    """Yield the row over all classes, and one per class."""
    one, other = measured.data, first.data
    paired = np.array_equal(one.samples, other.samples) and (
        list(one.images.ids) == list(other.images.ids)
    )
    for target in (None, *np.unique(measured.targets).tolist()):
        here = measured.of_class(target)
        hit, before = measured.hit[here], first.hit[first.of_class(target)]
        low, high = wilson(int(hit.sum()), len(hit))
        change, change_low, change_high = change_interval(hit, before, paired=paired)
        yield {
            "class": ALL if target is None else measured.name_of(target),
            "samples": len(hit),
            "accuracy": float(hit.mean()),
            "low": low,
            "high": high,
            "change": change,
            "change_low": change_low,
            "change_high": change_high,
            "logit": float(measured.logit[here].mean()),
            "other_logit": float(measured.other[here].mean()),
            "removed": float("nan"),
        }


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    share = hits / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def change_interval(
    now: Bool[np.ndarray, " n"], before: Bool[np.ndarray, " m"], *, paired: bool
) -> tuple[float, float, float]:
    """Return the change of a share with its 95 % interval.

    For the same images by the spread of their differences; for others by both Wilson
    intervals (Newcombe 1998, method 10). NaN where there was nothing before.
    """
    if len(before) == 0:
        return float("nan"), float("nan"), float("nan")
    change = float(now.mean() - before.mean())
    if paired:
        half = Z * float((now.astype(float) - before).std()) / np.sqrt(len(now))
        return change, change - half, change + half
    low, high = wilson(int(now.sum()), len(now))
    was_low, was_high = wilson(int(before.sum()), len(before))
    down = np.hypot(now.mean() - low, was_high - before.mean())
    up = np.hypot(high - now.mean(), before.mean() - was_low)
    return change, change - float(down), change + float(up)
