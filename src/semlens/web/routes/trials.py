"""Trying the model: against artefacts, and without components; nothing is ever written."""

from __future__ import annotations

from fastapi import APIRouter

from semlens.analysis.audit.model_test import model_test
from semlens.analysis.correct.trial import trial
from semlens.analysis.target import class_name, class_samples
from semlens.errors import LayerError
from semlens.recipe import fingerprint
from semlens.web.routes.trial_answers import (
    ModelTestAnswer,
    PruneAnswer,
    commands,
    tested_answer,
    tried_set,
)
from semlens.web.routes.trial_requests import ModelTestRequest, PruneRequest
from semlens.web.served import All, Model

router = APIRouter(prefix="/models/{m}/trials", tags=["audit"])


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
    components = given.parsed()
    if not components:
        raise LayerError("There is no component to leave out.", "Expected one.", "Choose some.")
    for component in components:
        db.row(component)
    artefact = None if given.artefact is None else given.artefact.artefact()
    class_samples(db, given.target, 1)

    def make() -> PruneAnswer:
        with served.running("The trial runs the model"):
            found = trial(
                db,
                db.model,
                db.images,
                given.target,
                components,
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
                tried_set(db, found, answers, db.images, put, given.seed)
                for answers, put in zip(found.sets, (None, artefact), strict=False)
            ],
            prune=prune,
            retrain=retrain,
        )

    key = fingerprint(given.model_dump(mode="json"), db.fingerprint)
    what = f"running the model without {len(components)} components"
    return serving.work.result(f"prune/{served.number}/{key}", what, make)
