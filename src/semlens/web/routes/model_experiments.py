"""Trying the model: against artefacts, and without components; nothing is ever written."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from semlens.analysis.audit.model_test import model_test
from semlens.analysis.audit.model_test_result import ModelTest, Outputs
from semlens.analysis.classes import class_name, class_samples
from semlens.analysis.correct.ablation_preview import (
    AblationPreview,
    Predictions,
    RateChange,
    ablation_preview,
)
from semlens.analysis.result import plain
from semlens.api import ConceptDatabase
from semlens.data.artefact import Artefact, Hue, Patch, Stripes, TextMark, insert_drawn
from semlens.draw.encode_images import encoded
from semlens.recipe import fingerprint
from semlens.types import Component
from semlens.web.app_state import All, Model

router = APIRouter(prefix="/models/{m}/trials", tags=["audit"])

MOST_IMAGES = 400
"""Images that a page may ask the model for."""


class ArtefactRequest(BaseModel):
    """An artefact to insert; what is null is as the kind has it.

    Cut-outs and fonts are files of the server's, so a page cannot name them.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["hue", "text", "patch", "stripes"]
    words: Annotated[str, Field(max_length=100)] | None = None
    """Of a text."""
    colour: Annotated[str, Field(max_length=40)] | None = None
    strength: float | None = None
    """Opacity of a hue or of stripes; size of a text or a patch, as a share of the image."""

    def artefact(self) -> Artefact:
        """Return it.

        Raises
        ------
        DataError
            If it cannot be drawn so.
        """
        kind = {"hue": Hue, "text": TextMark, "patch": Patch, "stripes": Stripes}[self.kind]
        strength = "opacity" if kind in (Hue, Stripes) else "size"
        given = {"colour": self.colour, strength: self.strength}
        look: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        words = {"words": (self.words or "").strip()} if kind is TextMark else {}
        return kind(**words, **look)


class ModelTestRequest(BaseModel):
    """Real images of a class against images of others with an artefact."""

    target: Annotated[int, Field(ge=0)]
    artefacts: Annotated[list[ArtefactRequest], Field(min_length=1, max_length=4)]
    count: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 100
    """Real images, and images of other classes, at most."""
    seed: Annotated[int, Field(ge=0)] = 0


class PruneRequest(BaseModel):
    """A model with and without some components."""

    target: Annotated[int, Field(ge=0)]
    components: Annotated[list[Component], Field(max_length=5000)]
    artefact: ArtefactRequest | None = None
    """Is inserted into the same images for answers of their own."""
    per_class: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 20
    at_most: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = MOST_IMAGES
    seed: Annotated[int, Field(ge=0)] = 0


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
    interval: tuple[float, float]
    """Of 95 %."""
    auroc_without: float | None
    """The same images without the artefact."""
    scores: ScoreSet
    without: ScoreSet | None


class ModelTestResponse(BaseModel):
    """How well a class is told from artefacts; 1 is safe, 0.5 is unsafe."""

    target: int
    name: str
    model: str
    real: ScoreSet
    sets: list[TestedArtefact]


class ChangedImage(BaseModel):
    """An image with another answer."""

    sample: int
    path: str
    right: str
    before: str
    after: str
    picture: str
    """As a data address: with its artefact, it is in no file."""


class AblatedSet(BaseModel):
    """Predictions on one set of images."""

    name: str
    accuracy: RateChange
    of_class: RateChange
    """Its recall."""
    mistaken: RateChange | None
    """How many images of other classes are called the class."""
    changed: int
    mended: int
    """How many of them are right now, and were not."""
    broken: int
    shown: list[ChangedImage]


class PruneResponse(BaseModel):
    """A model with and without components; nothing was written."""

    target: int
    name: str
    components: list[str]
    images: int
    classes: int
    sets: list[AblatedSet]
    prune: str
    """The command that writes weights without them."""
    retrain: list[str]
    """Those that find the images with the artefact, and train without them."""


@router.post("/test")
def test_with_artefacts(served: Model, serving: All, given: ModelTestRequest) -> ModelTestResponse:
    """Test how well real images of a class are told from images with artefacts (Fig. 3a)."""
    db = served.db
    artefacts = [one.artefact() for one in given.artefacts]
    class_samples(db, given.target, 1)  # says what there is, before the model is loaded

    def make() -> ModelTestResponse:
        with served.running("The test runs the model"):
            found = model_test(
                db, given.target, artefacts=artefacts, count=given.count, seed=given.seed
            )
        served.tests[given.target] = found
        return tested_answer(found)

    key = fingerprint(given.model_dump(mode="json"), db.fingerprint)
    what = f"testing the model on '{class_name(db, given.target)}'"
    return serving.work.result(f"test/{served.number}/{key}", what, make)


@router.post("/prune")
def try_without(served: Model, serving: All, given: PruneRequest) -> PruneResponse:
    """Run the model with and without components on the same images (Fig. 4d)."""
    db = served.db
    served.db.rows_of(given.components)
    artefact = None if given.artefact is None else given.artefact.artefact()
    class_samples(db, given.target, 1)

    def make() -> PruneResponse:
        with served.running("The trial runs the model"):
            found = ablation_preview(
                db,
                given.target,
                given.components,
                artefact=artefact,
                per_class=given.per_class,
                at_most=given.at_most,
                seed=given.seed,
            )
        names = [str(component) for component in found.components]
        prune, retrain = commands(db, names, artefact)
        return PruneResponse(
            target=given.target,
            name=class_name(db, given.target),
            components=names,
            images=len(found.samples),
            classes=len(set(found.right.tolist())),
            sets=[
                tried_set(db, found, answers, put, given.seed)
                for answers, put in zip(found.sets, (None, artefact), strict=False)
            ],
            prune=prune,
            retrain=retrain,
        )

    key = fingerprint(given.model_dump(mode="json"), db.fingerprint)
    what = f"running the model without {len(given.components)} components"
    return serving.work.result(f"prune/{served.number}/{key}", what, make)


def tested_answer(found: ModelTest) -> ModelTestResponse:
    """Return a model test as the page takes it."""
    return ModelTestResponse(
        target=found.target,
        name=found.name,
        model=found.model,
        real=_scores(found.real),
        sets=[
            TestedArtefact(
                name=one.name,
                spec=one.source,
                auroc=one.auroc,
                interval=one.interval,
                auroc_without=plain(one.auroc_without),
                scores=_scores(one.outputs),
                without=None if one.without is None else _scores(one.without),
            )
            for one in found.sets
        ],
    )


def _scores(outputs: Outputs) -> ScoreSet:
    return ScoreSet(
        images=len(outputs),
        top1=outputs.top(1),
        top5=outputs.top(5),
        logit=float(outputs.logit.mean()),
        logits=outputs.logit.tolist(),
    )


def tried_set(
    db: ConceptDatabase,
    found: AblationPreview,
    answers: Predictions,
    artefact: Artefact | None,
    seed: int,
) -> AblatedSet:
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
    return AblatedSet(
        name=answers.name,
        accuracy=found.accuracy(answers),
        of_class=found.accuracy(answers, found.target),
        mistaken=found.mistaken(answers),
        changed=len(changed),
        mended=int((now & ~was).sum()),
        broken=int((was & ~now).sum()),
        shown=[
            _shown(db, found, answers, int(place), artefact, seed)
            for place in changed[order][:SHOWN]
        ],
    )


def _shown(
    db: ConceptDatabase,
    found: AblationPreview,
    answers: Predictions,
    place: int,
    artefact: Artefact | None,
    seed: int,
) -> ChangedImage:
    sample = int(found.samples[place])
    picture = db.images.read(sample)
    if artefact is not None:
        picture = insert_drawn(picture, [artefact], seed, sample)
    picture.thumbnail((SIDE, SIDE))
    content = base64.b64encode(encoded(picture)).decode("ascii")
    return ChangedImage(
        sample=sample,
        path=db.sample(sample).path,
        right=class_name(db, int(found.right[place])),
        before=class_name(db, int(answers.before[place])),
        after=class_name(db, int(answers.after[place])),
        picture=f"data:image/webp;base64,{content}",
    )


def commands(
    db: ConceptDatabase, components: Sequence[str], artefact: Artefact | None
) -> tuple[str, list[str]]:
    """Return the command that prunes, and those that retrain, which helps more."""
    path = str(db.path)
    model, data, _ = db.sources
    other = ["--model", model] if isinstance(model, str) else []
    moved = ["--data", str(data)] if isinstance(data, str | Path) else []
    prune = ["semlens", "prune", path, *components, "--out", "pruned.safetensors", *other]
    affected = ["semlens", "affected", path, *components, "--all-data", "--out", "affected.csv"]
    kind = "text:WORDS" if artefact is None else artefact.spec
    retrain = ["semlens", "retrain", path, "--artefact", kind, "--drop", "affected.csv"]
    retrain += ["--out", "retrained.safetensors"]
    return (
        shlex.join(prune),
        [shlex.join([*affected, *other, *moved]), shlex.join([*retrain, *other, *moved])],
    )
