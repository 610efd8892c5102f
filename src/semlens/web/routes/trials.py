"""Trying the model: against artefacts, and without components; nothing is ever written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from semlens.analysis.audit.model_test import model_test
from semlens.analysis.correct.trial import trial
from semlens.analysis.target import class_name, class_samples
from semlens.data.artefact import Artefact, Hue, Patch, Stripes, Text
from semlens.recipe import fingerprint
from semlens.types import Component
from semlens.web.routes.trial_answers import (
    ModelTestAnswer,
    PruneAnswer,
    commands,
    tested_answer,
    tried_set,
)
from semlens.web.served import All, Model

router = APIRouter(prefix="/models/{m}/trials", tags=["audit"])

MOST_IMAGES = 400
"""Images that a page may ask the model for."""


class GivenArtefact(BaseModel):
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
        kind = {"hue": Hue, "text": Text, "patch": Patch, "stripes": Stripes}[self.kind]
        strength = "opacity" if kind in (Hue, Stripes) else "size"
        given = {"colour": self.colour, strength: self.strength}
        look: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        words = {"words": (self.words or "").strip()} if kind is Text else {}
        return kind(**words, **look)


class ModelTestRequest(BaseModel):
    """Real images of a class against images of others with an artefact."""

    target: Annotated[int, Field(ge=0)]
    artefacts: Annotated[list[GivenArtefact], Field(min_length=1, max_length=4)]
    count: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 100
    """Real images, and images of other classes, at most."""
    seed: Annotated[int, Field(ge=0)] = 0


class PruneRequest(BaseModel):
    """A model with and without some components."""

    target: Annotated[int, Field(ge=0)]
    components: Annotated[list[Component], Field(min_length=1, max_length=5000)]
    artefact: GivenArtefact | None = None
    """Is inserted into the same images for answers of their own."""
    per_class: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 20
    at_most: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = MOST_IMAGES
    seed: Annotated[int, Field(ge=0)] = 0


@router.post("/test")
def test_with_artefacts(served: Model, serving: All, given: ModelTestRequest) -> ModelTestAnswer:
    """Test how well real images of a class are told from images with artefacts (Fig. 3a)."""
    db = served.db
    artefacts = [one.artefact() for one in given.artefacts]
    class_samples(db, given.target, 1)  # says what there is, before the model is loaded

    def make() -> ModelTestAnswer:
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
def try_without(served: Model, serving: All, given: PruneRequest) -> PruneAnswer:
    """Run the model with and without components on the same images (Fig. 4d)."""
    db = served.db
    served.db.rows_of(given.components)
    artefact = None if given.artefact is None else given.artefact.artefact()
    class_samples(db, given.target, 1)

    def make() -> PruneAnswer:
        with served.running("The trial runs the model"):
            found = trial(
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
        return PruneAnswer(
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
