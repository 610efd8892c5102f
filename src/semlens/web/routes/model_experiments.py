"""Routes that run the subject model: the model test and the ablation preview; nothing is saved."""

from __future__ import annotations

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
from semlens.draw.encode_images import encode_webp
from semlens.draw.html import webp_uri
from semlens.recipe import fingerprint
from semlens.types import Component
from semlens.web.app_state import Context, State

router = APIRouter(prefix="/models/{m}/experiments", tags=["audit"])

MAX_IMAGES = 400
"""Largest number of images that a request may run the model on."""


class ArtefactRequest(BaseModel):
    """An artefact to insert; null uses the default of the kind.

    Cut-outs and fonts are files on the server, so a page cannot choose them.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["hue", "text", "patch", "stripes"]
    words: Annotated[str, Field(max_length=100)] | None = None
    """Content of a text artefact."""
    colour: Annotated[str, Field(max_length=40)] | None = None
    strength: float | None = None
    """Opacity of a hue or stripes; size of a text or patch, as a share of the image."""

    def artefact(self) -> Artefact:
        """Return the artefact.

        Raises
        ------
        DataError
            If it cannot be drawn with these settings.
        """
        kind = {"hue": Hue, "text": TextMark, "patch": Patch, "stripes": Stripes}[self.kind]
        strength = "opacity" if kind in (Hue, Stripes) else "size"
        settings = {"colour": self.colour, strength: self.strength}
        style: dict[str, Any] = {k: value for k, value in settings.items() if value is not None}
        words = {"words": (self.words or "").strip()} if kind is TextMark else {}
        return kind(**words, **style)


class ModelTestRequest(BaseModel):
    """A model test: images of a class against images of other classes with an artefact."""

    target: Annotated[int, Field(ge=0)]
    artefacts: Annotated[list[ArtefactRequest], Field(min_length=1, max_length=4)]
    count: Annotated[int, Field(ge=2, le=MAX_IMAGES)] = 100
    """Largest number of images of the class, and of other classes."""
    seed: Annotated[int, Field(ge=0)] = 0


class AblationRequest(BaseModel):
    """An ablation preview: predictions with and without some components."""

    target: Annotated[int, Field(ge=0)]
    components: Annotated[list[Component], Field(max_length=5000)]
    artefact: ArtefactRequest | None = None
    """Also predict the same images with this artefact."""
    per_class: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 20
    at_most: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = MAX_IMAGES
    seed: Annotated[int, Field(ge=0)] = 0


MAX_EXAMPLES = 12
"""Images with a changed prediction in a response, per set."""
EXAMPLE_SIZE = 96
"""Longer side of such an image in pixels."""


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


class ChangedImage(BaseModel):
    """An image whose prediction has changed."""

    sample: int
    path: str
    true_class: str
    before: str
    after: str
    image: str
    """Data URL, since an image with an artefact is not a file."""


class AblatedSet(BaseModel):
    """Predictions on a set of images, with and without the components."""

    name: str
    accuracy: RateChange
    recall: RateChange
    """Share of the images of the class that are predicted as it."""
    false_positive_rate: RateChange | None
    """Share of the images of other classes that are predicted as the class."""
    changed: int
    fixed: int
    """Number of predictions that became correct."""
    broken: int
    """Number of predictions that became wrong."""
    examples: list[ChangedImage]


class AblationResponse(BaseModel):
    """Result of an ablation preview."""

    target: int
    name: str
    components: list[str]
    images: int
    classes: int
    sets: list[AblatedSet]
    prune_command: str
    """Command that writes the weights without the components."""
    retrain_commands: list[str]
    """Commands that find the affected images and retrain without them."""


@router.post("/model-test")
def run_model_test(context: Context, state: State, request: ModelTestRequest) -> ModelTestResponse:
    """Test whether the model separates images of a class from images with artefacts (Fig. 3a)."""
    db = context.db
    artefacts = [artefact.artefact() for artefact in request.artefacts]
    class_samples(db, request.target, 1)  # fails early, before the model is loaded

    def compute() -> ModelTestResponse:
        with context.run_model("The model test"):
            result = model_test(
                db, request.target, artefacts=artefacts, count=request.count, seed=request.seed
            )
        context.model_tests[request.target] = result
        return model_test_response(result)

    key = fingerprint(request.model_dump(mode="json"), db.fingerprint)
    description = f"Testing the model on '{class_name(db, request.target)}'"
    return state.jobs.result(f"model-test/{context.number}/{key}", description, compute)


@router.post("/ablation")
def preview_ablation(context: Context, state: State, request: AblationRequest) -> AblationResponse:
    """Run the model with and without some components on the same images (Fig. 4d)."""
    db = context.db
    context.db.rows_of(request.components)
    artefact = None if request.artefact is None else request.artefact.artefact()
    class_samples(db, request.target, 1)

    def compute() -> AblationResponse:
        with context.run_model("The ablation preview"):
            preview = ablation_preview(
                db,
                request.target,
                request.components,
                artefact=artefact,
                per_class=request.per_class,
                at_most=request.at_most,
                seed=request.seed,
            )
        names = [str(component) for component in preview.components]
        prune_command, retrain_commands = correction_commands(db, names, artefact)
        return AblationResponse(
            target=request.target,
            name=class_name(db, request.target),
            components=names,
            images=len(preview.samples),
            classes=len(set(preview.right.tolist())),
            sets=[
                ablated_set(db, preview, predictions, inserted, request.seed)
                for predictions, inserted in zip(preview.sets, (None, artefact), strict=False)
            ],
            prune_command=prune_command,
            retrain_commands=retrain_commands,
        )

    key = fingerprint(request.model_dump(mode="json"), db.fingerprint)
    description = f"Running the model without {len(request.components)} components"
    return state.jobs.result(f"ablation/{context.number}/{key}", description, compute)


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


def ablated_set(
    db: ConceptDatabase,
    preview: AblationPreview,
    predictions: Predictions,
    artefact: Artefact | None,
    seed: int,
) -> AblatedSet:
    """Return the predictions on a set of images, with examples of those that changed.

    Examples that concern the class come first, then those that became correct, then those
    that became wrong.
    """
    before, after = predictions.before, predictions.after
    was_correct, is_correct = before == preview.right, after == preview.right
    changed = np.flatnonzero(before != after)
    of_target = (
        (preview.right == preview.target) | (before == preview.target) | (after == preview.target)
    )
    # lexsort sorts by the last key first, and False before True
    order = np.lexsort((~was_correct[changed], ~is_correct[changed], ~of_target[changed]))
    return AblatedSet(
        name=predictions.name,
        accuracy=preview.accuracy(predictions),
        recall=preview.accuracy(predictions, preview.target),
        false_positive_rate=preview.mistaken(predictions),
        changed=len(changed),
        fixed=int((is_correct & ~was_correct).sum()),
        broken=int((was_correct & ~is_correct).sum()),
        examples=[
            _changed_image(db, preview, predictions, int(position), artefact, seed)
            for position in changed[order][:MAX_EXAMPLES]
        ],
    )


def _changed_image(
    db: ConceptDatabase,
    preview: AblationPreview,
    predictions: Predictions,
    position: int,
    artefact: Artefact | None,
    seed: int,
) -> ChangedImage:
    sample = int(preview.samples[position])
    image = db.images.read(sample)
    if artefact is not None:
        image = insert_drawn(image, [artefact], seed, sample)
    image.thumbnail((EXAMPLE_SIZE, EXAMPLE_SIZE))
    return ChangedImage(
        sample=sample,
        path=db.sample(sample).path,
        true_class=class_name(db, int(preview.right[position])),
        before=class_name(db, int(predictions.before[position])),
        after=class_name(db, int(predictions.after[position])),
        image=webp_uri(encode_webp(image)),
    )


def correction_commands(
    db: ConceptDatabase, components: Sequence[str], artefact: Artefact | None
) -> tuple[str, list[str]]:
    """Return the command that prunes the components, and those that retrain the model."""
    path = str(db.path)
    model, data, _ = db.sources
    model_option = ["--model", model] if isinstance(model, str) else []
    data_option = ["--data", str(data)] if isinstance(data, str | Path) else []
    prune = ["semlens", "prune", path, *components, "--out", "pruned.safetensors", *model_option]
    affected = ["semlens", "affected", path, *components, "--all-data", "--out", "affected.csv"]
    kind = "text:WORDS" if artefact is None else artefact.spec
    retrain = ["semlens", "retrain", path, "--artefact", kind, "--drop", "affected.csv"]
    retrain += ["--out", "retrained.safetensors"]
    return (
        shlex.join(prune),
        [
            shlex.join([*affected, *model_option, *data_option]),
            shlex.join([*retrain, *model_option, *data_option]),
        ],
    )
