"""What the page is answered when it tries a model."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from semlens.analysis.audit.tested import ModelTest, Outputs, SpuriousSet
from semlens.analysis.correct.trial import Answers, Share, Trial
from semlens.analysis.result import plain
from semlens.analysis.target import class_name
from semlens.api import ConceptDatabase
from semlens.data.artefact import Artefact, artefact_seed
from semlens.data.images import Images

SHOWN = 12
"""Images of a set that are shown, of those with another answer."""
SIDE = 96
"""Pixels of the longer side of a shown image."""


class ScoreSet(BaseModel):
    """What the model says of the class on a set of images."""

    images: int
    top1: float
    """Share of them that it calls the class."""
    top5: float
    logit: float
    """Mean."""
    logits: list[float]


class TestedArtefact(BaseModel):
    """Images of other classes with an artefact, against real ones of the class."""

    name: str
    spec: str
    auroc: float
    low: float
    high: float
    """A 95 % interval."""
    auroc_without: float | None
    """The same images without the artefact."""
    scores: ScoreSet
    without: ScoreSet | None


class ModelTestAnswer(BaseModel):
    """How well a class is told from artefacts; 1 is safe, 0.5 is unsafe."""

    target: int
    name: str
    model: str
    real: ScoreSet
    sets: list[TestedArtefact]


class Change(BaseModel):
    """A share of the same images with and without the components, with 95 % intervals."""

    images: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]


class ChangedImage(BaseModel):
    """An image with another answer."""

    sample: int
    path: str
    right: str
    before: str
    after: str
    picture: str
    """As a data address: with its artefact, it is in no file."""


class TriedSet(BaseModel):
    """Answers on one set of images."""

    name: str
    accuracy: Change
    of_class: Change
    """Its recall."""
    mistaken: Change | None
    """How many images of other classes are called the class."""
    changed: int
    mended: int
    """How many of them are right now, and were not."""
    broken: int
    shown: list[ChangedImage]


class PruneAnswer(BaseModel):
    """A model with and without components; nothing was written."""

    target: int
    name: str
    components: list[str]
    images: int
    classes: int
    sets: list[TriedSet]
    prune: str
    """The command that writes weights without them."""
    retrain: list[str]
    """Those that find the images with the artefact, and train without them."""


def tested_answer(found: ModelTest) -> ModelTestAnswer:
    """Return a model test as the page takes it."""
    return ModelTestAnswer(
        target=found.target,
        name=found.name,
        model=found.model,
        real=_scores(found.real),
        sets=[_tested(one) for one in found.sets],
    )


def _tested(one: SpuriousSet) -> TestedArtefact:
    return TestedArtefact(
        name=one.name,
        spec=one.source,
        auroc=one.auroc,
        low=one.interval[0],
        high=one.interval[1],
        auroc_without=plain(one.auroc_without),
        scores=_scores(one.outputs),
        without=None if one.without is None else _scores(one.without),
    )


def _scores(outputs: Outputs) -> ScoreSet:
    return ScoreSet(
        images=len(outputs),
        top1=outputs.top(1),
        top5=outputs.top(5),
        logit=float(outputs.logit.mean()),
        logits=[float(value) for value in outputs.logit],
    )


def tried_set(
    db: ConceptDatabase,
    found: Trial,
    answers: Answers,
    images: Images,
    artefact: Artefact | None,
    seed: int,
) -> TriedSet:
    """Return the answers on one set, with pictures of some that have changed.

    Those of the class come first, then those that are right now, then those that were.
    """
    was, now = answers.before == found.right, answers.after == found.right
    changed = np.flatnonzero(answers.before != answers.after)
    touched = (
        (found.right == found.target)
        | (answers.before == found.target)
        | (answers.after == found.target)
    )
    order = np.lexsort((~was[changed], ~now[changed], ~touched[changed]))
    mistaken = found.mistaken(answers)
    return TriedSet(
        name=answers.name,
        accuracy=_change(found.accuracy(answers)),
        of_class=_change(found.accuracy(answers, found.target)),
        mistaken=None if mistaken is None else _change(mistaken),
        changed=len(changed),
        mended=int((now & ~was).sum()),
        broken=int((was & ~now).sum()),
        shown=[
            _shown(db, found, answers, int(place), images, artefact, seed)
            for place in changed[order][:SHOWN]
        ],
    )


def _change(share: Share) -> Change:
    return Change(**vars(share))


def _shown(
    db: ConceptDatabase,
    found: Trial,
    answers: Answers,
    place: int,
    images: Images,
    artefact: Artefact | None,
    seed: int,
) -> ChangedImage:
    sample = int(found.samples[place])
    picture = images.read(sample)
    if artefact is not None:
        picture = artefact.insert(picture, artefact_seed(seed, sample))
    picture.thumbnail((SIDE, SIDE))
    held = io.BytesIO()
    picture.save(held, "WEBP", quality=82)
    encoded = base64.b64encode(held.getvalue()).decode("ascii")
    return ChangedImage(
        sample=sample,
        path=db.sample(sample).path,
        right=class_name(db, int(found.right[place])),
        before=class_name(db, int(answers.before[place])),
        after=class_name(db, int(answers.after[place])),
        picture=f"data:image/webp;base64,{encoded}",
    )


def commands(
    db: ConceptDatabase,
    components: Sequence[str],
    artefact: Artefact | None,
    model: str | None,
    data: str | None,
) -> tuple[str, list[str]]:
    """Return the command that prunes, and those that retrain, which helps more."""
    path = str(db.path)
    other = [] if model is None else ["--model", model]
    moved = [] if data is None else ["--data", data]
    prune = ["semlens", "prune", path, *components, "--out", "pruned.safetensors", *other]
    affected = ["semlens", "affected", path, *components, "--all-data", "--out", "affected.csv"]
    kind = "text:WORDS" if artefact is None else artefact.spec
    retrain = ["semlens", "retrain", path, "--artefact", kind, "--drop", "affected.csv"]
    retrain += ["--out", "retrained.safetensors"]
    return (
        shlex.join(prune),
        [shlex.join([*affected, *other, *moved]), shlex.join([*retrain, *other, *moved])],
    )
