"""The model test, which runs the subject model, and artefacts as requests name them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from semlens.concept_database import ConceptDatabase
from semlens.data.artefact import Artefact, Hue, Patch, Stripes, TextMark
from semlens.data.pieces import Pieces
from semlens.lenses.audit.model_test import model_test
from semlens.lenses.audit.model_test_result import ModelTest, Outputs
from semlens.lenses.classes import class_name, class_samples
from semlens.lenses.correct.mark import find_mark
from semlens.lenses.result import plain
from semlens.recipe import fingerprint
from semlens.types import Component
from semlens.web.app_state import Context, State
from semlens.web.responses import RequestModel
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


class ArtefactRequest(RequestModel):
    """An artefact to insert; null uses the default of the kind.

    A mark is cut out of the examples of some components. Files of cut-outs and fonts are on the
    server, so a page cannot choose them.
    """

    kind: Literal["mark", "hue", "text", "patch", "stripes"]
    components: Annotated[list[Component], Field(max_length=100)] | None = None
    """Components that a mark is cut out of the examples of, most relevant first."""
    words: Annotated[str, Field(max_length=100)] | None = None
    """Content of a text artefact."""
    colour: Annotated[str, Field(max_length=40)] | None = None
    strength: float | None = None
    """Opacity of a hue or stripes; size of a text or patch, as a share of the image."""

    def artefact(self, db: ConceptDatabase, target: int) -> Artefact:
        """Return the artefact; a mark needs the model.

        Raises
        ------
        DataError
            If it cannot be drawn with these settings, or the mark cannot be cut out.
        """
        if self.kind == "mark":
            return find_mark(db, target, self.components or []).pieces
        kind = {"hue": Hue, "text": TextMark, "patch": Patch, "stripes": Stripes}[self.kind]
        strength = "opacity" if kind in (Hue, Stripes) else "size"
        settings = {"colour": self.colour, strength: self.strength}
        style: dict[str, Any] = {k: value for k, value in settings.items() if value is not None}
        words = {"words": (self.words or "").strip()} if kind is TextMark else {}
        return kind(**words, **style)


@dataclass(frozen=True)
class CorrectionCommands:
    """Commands that correct a model permanently."""

    prune: str
    """Writes the weights without the components."""
    cutout: str | None
    """Writes the cut-outs that the artefact consists of."""
    retrain: list[str]
    """Find the affected images, and retrain without them and with the artefact everywhere."""


def correction_commands(
    db: ConceptDatabase, components: Sequence[str], artefact: Artefact | None
) -> CorrectionCommands:
    """Return the commands that prune the components, and that retrain the model."""
    path = db.location
    model, data, _ = db.sources
    model_option = ["--model", model] if isinstance(model, str) else []
    data_option = ["--data", str(data)] if isinstance(data, str | Path) else []
    prune = ["semlens", "prune", path, *components, "--save", "pruned.safetensors", *model_option]
    affected = ["semlens", "affected", path, *components, "--all-data", "--save", "affected.csv"]
    kind, cutout = "text:WORDS" if artefact is None else artefact.spec, None
    if isinstance(artefact, Pieces):
        kind = "paste:cutouts"
        cutout = ["semlens", "cutout", path, *artefact.of.split(", "), "--out", "cutouts"]
        cutout = shlex.join([*cutout, *model_option, *data_option])
    retrain = ["semlens", "retrain", path, "--artefact", kind, "--drop", "affected.csv"]
    retrain += ["--save", "retrained.safetensors"]
    return CorrectionCommands(
        shlex.join(prune),
        cutout,
        [
            shlex.join([*affected, *model_option, *data_option]),
            shlex.join([*retrain, *model_option, *data_option]),
        ],
    )
