"""Accuracy on clean images and with artefacts, before and after a correction (paper, F.2.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int64
from rich.console import RenderableType

from semlens.analysis.evaluate import check_targets
from semlens.analysis.reading import Progress
from semlens.analysis.result import Result
from semlens.data.artefact import Artefact
from semlens.data.images import Images
from semlens.data.targets import map_targets
from semlens.data.with_artefact import WithArtefact
from semlens.errors import DataError
from semlens.models.forward import logits
from semlens.models.subject import SubjectModel
from semlens.models.taps import pruned
from semlens.types import Component

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CLEAN, PRUNED, ALL = "clean", "pruned", "all"
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

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per model, set of images and class."""
        return self.frame.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "models": self.models,
            "images": self.sets,
            "rows": self.frame.to_dict("records"),
        }

    def plot(self) -> Figure:
        """Draw accuracies and changes as grouped bars (paper, Fig. F.13)."""
        from semlens.draw.sensitivity_plot import sensitivity_plot

        return sensitivity_plot(self.frame)

    def __rich__(self) -> RenderableType:
        """Return the rows over all classes."""
        from semlens.draw.table import rich_table

        shown = self.frame.query("`class` == @ALL")
        columns = ["model", "images", "samples", "accuracy", "low", "high", "change", "removed"]
        return rich_table(shown, "Accuracy over all classes (95 % interval)", columns)


def sensitivity(
    models: Mapping[str, SubjectModel],
    images: Images | Mapping[str, Images],
    artefacts: Sequence[Artefact] = (),
    *,
    prune: Sequence[Component] = (),
    targets: Sequence[int | None] | None = None,
    samples: Sequence[int] | Mapping[str, Sequence[int] | None] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Sensitivity:
    """Measure how much artefacts cost each model in accuracy.

    Parameters
    ----------
    models
        By name; the first is what the others are compared with.
    images
        Clean images, or sets by name, of which the first is the clean one.
    artefacts
        Each is inserted into the clean images, as a set of its own.
    prune
        Components without which the first model is measured once more, as ``pruned``.
    targets, samples
        Of the clean images; by default all of them, with the logit found by class name. Sets
        with the same ids share them; samples may also be given by the set's name.
    seed
        Of the artefacts' places.

    Raises
    ------
    DataError
        If there is no model, names collide, or no image has a known class.
    ModelError
        If a model has one logit only.

    Examples
    --------
    >>> import semlens as sl
    >>> hue = sl.load_artefact("hue")                                     # doctest: +SKIP
    >>> sl.sensitivity({"vanilla": model, "retrained": better}, images, [hue])   # doctest: +SKIP
    """
    sets = _sets(images, artefacts, seed)
    variants = list(_variants(models, prune))
    names = [name for name, _, _ in variants]
    if not models or len(set(names)) < len(names):
        raise DataError(
            f"The models are {', '.join(names) or 'none'}.",
            "Expected at least one, each with a name of its own.",
            "Rename one.",
        )
    clean = next(iter(sets))
    chosen = dict(samples) if isinstance(samples, Mapping) else {clean: samples}
    rows: list[dict[str, Any]] = []
    base: dict[str, float] = {}
    done, total = 0, len(variants) * len(sets)
    for name, model, removed in variants:
        first: _Measured | None = None
        with pruned(model, removed) if removed else nullcontext():
            for title, data in sets.items():
                own = data.ids == sets[clean].ids
                wanted = chosen.get(title, chosen.get(clean) if own else None)
                measured = _measure(model, data, targets if own else None, wanted, batch_size)
                first = first or measured
                found = _rows(measured, first, model.classes)
                loss = found[0]["change"]
                base.setdefault(title, loss)
                share = 1 - loss / base[title] if base[title] < 0 else float("nan")
                rows += [{"model": name, "images": title, **row} for row in found]
                rows[-len(found)]["removed"] = share
                done += 1
                progress("evaluating", done, total)
    return Sensitivity(pd.DataFrame(rows, columns=list(COLUMNS)))


def _sets(
    images: Images | Mapping[str, Images], artefacts: Sequence[Artefact], seed: int
) -> dict[str, Images]:
    sets = {CLEAN: images} if isinstance(images, Images) else dict(images)
    if not sets:
        raise DataError("There are no images.", "Expected at least one set.", "Name one.")
    clean = next(iter(sets.values()))
    kinds = [artefact.name for artefact in artefacts]
    for artefact in artefacts:
        short = kinds.count(artefact.name) == 1 and artefact.name not in sets
        name = artefact.name if short else artefact.spec
        if name in sets:
            raise DataError(
                f"There are two sets of images called '{name}'.",
                "Expected different names.",
                "Rename one, or leave one artefact out.",
            )
        sets[name] = WithArtefact(clean, artefact, seed=seed)
    return sets


def _variants(
    models: Mapping[str, SubjectModel], prune: Sequence[Component]
) -> Iterator[tuple[str, SubjectModel, Sequence[Component]]]:
    """Yield the models, with the pruned first one after it."""
    for place, (name, model) in enumerate(models.items()):
        yield name, model, ()
        if place == 0 and prune:
            yield PRUNED, model, prune


@dataclass(frozen=True)
class _Measured:
    samples: tuple[int, ...]
    spec: str
    right: Int64[np.ndarray, " n"]
    hit: Bool[np.ndarray, " n"]
    logit: Float64[np.ndarray, " n"]
    other: Float64[np.ndarray, " n"]
    ids: Sequence[str]


def _measure(
    model: SubjectModel,
    images: Images,
    targets: Sequence[int | None] | None,
    samples: Sequence[int] | None,
    batch_size: int,
) -> _Measured:
    if targets is None:
        targets = map_targets(images.targets, len(images), model.classes, model.synsets).logits
    chosen = range(len(images)) if samples is None else samples
    kept = [i for i in chosen if targets[i] is not None]
    if not kept:
        raise DataError(
            f"No image of '{images.spec}' has a class that the model knows.",
            "Expected class folders named as the model's classes or WordNet ids.",
            "Rename the folders, or give targets.",
        )
    scores: Float32[np.ndarray, "n c"] = logits(model, images.read, kept, batch_size)
    right = np.array([targets[i] for i in kept], np.int64)
    check_targets(right, scores.shape[1])
    place = np.arange(len(kept))
    own = scores[place, right].astype(np.float64)
    others = scores.astype(np.float64)
    others[place, right] = -np.inf
    return _Measured(
        tuple(kept), images.spec, right, scores.argmax(1) == right, own, others.max(1), images.ids
    )


def _rows(
    measured: _Measured, first: _Measured, classes: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Return the row over all classes, and one per class."""
    paired = measured.samples == first.samples and list(measured.ids) == list(first.ids)
    found: list[dict[str, Any]] = []
    for target in (None, *np.unique(measured.right)):
        here = np.full(len(measured.right), True) if target is None else measured.right == target
        there = np.full(len(first.right), True) if target is None else first.right == target
        name = ALL if target is None else classes[target] if classes else str(target)
        hit, before = measured.hit[here], first.hit[there]
        low, high = wilson(int(hit.sum()), len(hit))
        change = change_interval(hit, before, paired=paired)
        found.append(
            {
                "class": name,
                "samples": len(hit),
                "accuracy": float(hit.mean()),
                "low": low,
                "high": high,
                "change": change[0],
                "change_low": change[1],
                "change_high": change[2],
                "logit": float(measured.logit[here].mean()),
                "other_logit": float(measured.other[here].mean()),
                "removed": float("nan"),
            }
        )
    return found


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
