"""The route of the model test, which runs the subject model; nothing is saved."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from semlens.lenses.audit.model_test import model_test
from semlens.lenses.audit.model_test_result import ModelTest, Outputs
from semlens.lenses.classes import class_name, class_samples
from semlens.lenses.result import plain
from semlens.recipe import fingerprint
from semlens.web.app_state import Context, State
from semlens.web.responses import RequestModel
from semlens.web.routes.artefact_requests import ArtefactRequest
from semlens.wording import CURLY

router = APIRouter(prefix="/models/{m}/experiments", tags=["audit"])

MAX_IMAGES = 400
"""Largest number of images that a request may run the model on."""


class ModelTestRequest(RequestModel):
    """A model test: images of a class against images of other classes with an artefact."""

    target: Annotated[int, Field(ge=0)]
    artefacts: Annotated[list[ArtefactRequest], Field(min_length=1, max_length=4)]
    count: Annotated[int, Field(ge=2, le=MAX_IMAGES)] = 100
    """Largest number of images of the class, and of other classes."""
    seed: Annotated[int, Field(ge=0)] = 0


class ScoreSet(BaseModel):
    """Scores of the class on a set of images."""

    images: int
    top1: float
    """Share of the images that are predicted as the class."""
    top5: float
    logit: float
    """Mean logit."""
    logits: list[float]


class TestedArtefact(BaseModel):
    """Images of other classes with an artefact, compared with images of the class."""

    name: str
    spec: str
    sentence: str
    """Whether the artefact makes the model predict the class."""
    auroc: float
    interval: tuple[float, float]
    """95 % interval."""
    auroc_without: float | None
    """AUROC of the same images without the artefact."""
    scores: ScoreSet
    without: ScoreSet | None


class ModelTestResponse(BaseModel):
    """How well the model separates a class from artefacts; AUROC 1 is safe, 0.5 is unsafe."""

    target: int
    name: str
    model: str
    real: ScoreSet
    sets: list[TestedArtefact]


@router.post("/model-test")
def run_model_test(context: Context, state: State, request: ModelTestRequest) -> ModelTestResponse:
    """Test whether the model separates images of a class from images with artefacts (Fig. 3a)."""
    db = context.db
    for one in request.artefacts:
        if one.kind != "mark":
            one.artefact(db, request.target)  # refuses what cannot be drawn, at once
    class_samples(db, request.target, 1)  # fails early, before the model is loaded

    def compute() -> ModelTestResponse:
        with context.run_model("The model test"):
            artefacts = [one.artefact(db, request.target) for one in request.artefacts]
            result = model_test(
                db, request.target, artefacts=artefacts, count=request.count, seed=request.seed
            )
        context.model_tests[request.target] = result
        return model_test_response(result)

    key = fingerprint(request.model_dump(mode="json"), db.fingerprint)
    description = f"Testing the model on '{class_name(db, request.target)}'"
    return state.jobs.result(f"model-test/{context.number}/{key}", description, compute)


def model_test_response(result: ModelTest) -> ModelTestResponse:
    """Return the result of a model test as a response."""
    return ModelTestResponse(
        target=result.target,
        name=result.name,
        model=result.model,
        real=_scores(result.real),
        sets=[
            TestedArtefact(
                name=tested.name,
                spec=tested.source,
                sentence=tested.sentence(result.name, CURLY),
                auroc=tested.auroc,
                interval=tested.interval,
                auroc_without=plain(tested.auroc_without),
                scores=_scores(tested.outputs),
                without=None if tested.without is None else _scores(tested.without),
            )
            for tested in result.sets
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
