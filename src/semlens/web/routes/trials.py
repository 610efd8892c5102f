"""Trying the model: against artefacts, and without components; nothing is ever written."""

from __future__ import annotations

from fastapi import APIRouter

from semlens.analysis.audit.model_test import model_test
from semlens.analysis.correct.trial import trial
from semlens.analysis.target import class_name, class_samples
from semlens.errors import LayerError
from semlens.recipe import fingerprint
from semlens.store.reader import BuiltImages
from semlens.web.routes.trial_answers import (
    ModelTestAnswer,
    PruneAnswer,
    commands,
    tested_answer,
    tried_set,
)
from semlens.web.routes.trial_requests import ModelTestRequest, PruneRequest
from semlens.web.served import All, Model
from semlens.web.traced import loaded_subject
from semlens.web.work import Progress

router = APIRouter(prefix="/models/{m}/trials", tags=["audit"])


@router.post("/test")
def test_with_artefacts(served: Model, serving: All, given: ModelTestRequest) -> ModelTestAnswer:
    """Test how well real images of a class are told from images with artefacts (Fig. 3a)."""
    db = served.db
    artefacts = [one.artefact() for one in given.artefacts]
    class_samples(db, given.target, 1)  # says what there is, before the model is loaded
    runs = len(artefacts) + 2 + (len(artefacts) > 1)

    def make(progress: Progress) -> ModelTestAnswer:
        begun: list[str] = []

        def tell(what: str, done: int, total: int) -> None:
            if what not in begun:
                begun.append(what)
            progress(round(100 * (len(begun) - 1 + done / total) / runs), 100)

        with served.lock:
            found = model_test(
                db,
                loaded_subject(served, "The test runs the model"),
                given.target,
                images=BuiltImages(db, served.data),
                artefacts=artefacts,
                count=given.count,
                seed=given.seed,
                progress=tell,
            )
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

    def make(progress: Progress) -> PruneAnswer:
        images = BuiltImages(db, served.data)
        with served.lock:
            found = trial(
                db,
                loaded_subject(served, "The trial runs the model"),
                images,
                given.target,
                components,
                artefact=artefact,
                per_class=given.per_class,
                at_most=given.at_most,
                seed=given.seed,
                progress=lambda _, done, total: progress(done, total),
            )
        names = [str(component) for component in found.components]
        spec = served.given if isinstance(served.given, str) else None
        prune, retrain = commands(db, names, artefact, spec, served.data)
        return PruneAnswer(
            target=given.target,
            name=class_name(db, given.target),
            components=names,
            images=len(found.samples),
            classes=len(set(found.right.tolist())),
            sets=[
                tried_set(db, found, answers, images, put, given.seed)
                for answers, put in zip(found.sets, (None, artefact), strict=False)
            ],
            prune=prune,
            retrain=retrain,
        )

    key = fingerprint(given.model_dump(mode="json"), db.fingerprint)
    what = f"running the model without {len(components)} components"
    return serving.work.result(f"prune/{served.number}/{key}", what, make)
