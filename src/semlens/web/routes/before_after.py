"""Routes of the repair: an artefact on other images, with and without spurious components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated

import numpy as np
import pandas as pd
from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel, Field

from semlens.concept_database import ConceptDatabase
from semlens.data.artefact_rendering import paste_piece, trim_faint_border
from semlens.draw.encode_images import encode_webp
from semlens.draw.html import webp_uri
from semlens.errors import DataError, StoreError
from semlens.lenses.audit.saved_audits import reviews_of
from semlens.lenses.classes import class_name
from semlens.lenses.correct.ablation_preview import (
    Predictions,
    RateChange,
    by_relevance,
    components_to_remove,
)
from semlens.lenses.correct.before_after import BeforeAfter, before_after
from semlens.lenses.correct.mark import Mark
from semlens.lenses.result import plain
from semlens.recipe import fingerprint
from semlens.types import Component
from semlens.version import __version__
from semlens.web.app_state import MAX_INT, AppState, Context, ModelContext, State
from semlens.web.errors import HttpError
from semlens.web.responses import RequestModel
from semlens.web.routes.audits import get_audit, run_audit
from semlens.web.routes.classes import class_samples
from semlens.web.routes.model_test import correction_commands
from semlens.web.routes.verdicts import spurious_of_alarm

router = APIRouter(prefix="/models/{m}", tags=["audit"])

SHOWN = 8
"""Images per condition."""
MOST = 2000
"""Components that a request may remove."""
ACTING = 4
"""Further components that are named."""
SIZE = 288
"""Longer side of an image in pixels."""
PIECES, PIECE_SIZE = 4, 160
"""Cut-outs that are shown, and their longer side in pixels."""
GREY = (128, 128, 128)
"""Background of a cut-out."""


class ShownImage(BaseModel):
    """An image and its predictions, with and without the components."""

    sample: int
    path: str
    true_class: str
    original: str
    """Prediction for the image without the mark, by the intact model."""
    before: str
    before_probability: float | None
    after: str
    after_probability: float | None
    image: str
    """Data URL, since an image with a mark is not a file."""


class Condition(BaseModel):
    """Predictions on the same images with and without the components."""

    images: int
    accuracy: RateChange
    recall: RateChange
    """Share of the images of the class that are predicted as it."""
    taken: RateChange | None
    """Share of the images of other classes that are predicted as the class."""
    changed: int
    fixed: int
    """Number of predictions that became correct."""
    broken: int
    """Number of predictions that became wrong."""
    candidates: int
    """Number of images that the shown ones were drawn from."""
    shown: list[ShownImage]


class MarkTrial(BaseModel):
    """A way to cut out the mark, and the share of other images taken for the class."""

    way: str
    taken: float
    control: float | None


class MarkResponse(BaseModel):
    """The artefact that was cut out of the components' examples."""

    components: list[str]
    """Components that it was located with."""
    cutouts: int
    separation: float
    """Cross-validated AUROC of images with and without it, in the layer it was located in."""
    control: RateChange | None
    """The share of other images predicted as the class: before with the same regions of images
    that do not show the mark (or, if there are none, the originals), after with the mark."""
    control_piece: str | None
    """The same region of an image without the mark, as a data URL; null if there is none."""
    way: str
    """How it was cut out, in words."""
    trials: list[MarkTrial]
    """All ways that were tried, on images that are not among those reported."""
    pieces: list[str]
    """Some cut-outs, as data URLs."""


class ClassRecall(BaseModel):
    """The recall of a class on unmarked images, with and without the components."""

    target: int
    name: str
    recall: RateChange


class BeforeAfterResponse(BaseModel):
    """What an artefact does to a model, and what it does without the spurious components."""

    target: int
    name: str
    components: list[str]
    images: int
    classes: int
    works: bool
    """Whether the mark makes the model predict the class."""
    helps: bool
    """Whether it does so less without the components."""
    costs: bool
    """Whether the accuracy on unmarked images falls without the components."""
    finding: str
    caution: str | None
    """Why the figures are not those of the mark alone."""
    cost: str
    turned: int
    """Number of images of other classes that the mark turns into the class."""
    kept: float | None
    """Share of these that are still turned without the components."""
    advice: str | None
    """What to remove next, if the mark still has an effect."""
    acting: list[str]
    """Components that the mark acts through besides those removed, the strongest first."""
    suggested: list[str]
    """The components to remove next."""
    mark: MarkResponse | None
    reason: str | None
    """Why no mark could be cut out."""
    marked: Condition | None
    unmarked: Condition
    recalls: list[ClassRecall]
    """Of each class, the largest loss first."""
    cutout_command: str | None
    prune_command: str
    retrain_commands: list[str]


class RepairRequest(RequestModel):
    """Components to remove, to repair a class."""

    target: Annotated[int, Field(ge=0, le=MAX_INT)]
    components: Annotated[list[Component], Field(min_length=1, max_length=MOST)]


@router.get("/verdicts/{target}/before-after")
def class_before_after(context: Context, state: State, target: int) -> BeforeAfterResponse:
    """Return before and after for a class that raises the alarm in the audit of all classes."""
    class_samples(context, target)  # raises if the class has no relevance
    components = spurious_of_alarm(context, state, target)
    if not components:
        raise HttpError(
            404,
            f"'{class_name(context.db, target)}' raises no alarm, or has no spurious components.",
            "Expected spurious components behind an alarm, or components that you marked.",
            "Mark components as spurious, or test the model with an artefact of your choice.",
        )
    return _response(context, state, target, components)


@router.get("/audits/{number}/before-after")
def audit_before_after(context: Context, state: State, number: int) -> BeforeAfterResponse:
    """Return before and after for what a saved audit and its reviews call spurious."""
    record = get_audit(context, number)
    result = run_audit(context, state, record)
    reviews = reviews_of(context.db, record.target)
    try:
        components = components_to_remove(context.db, result, reviews)
    except DataError as error:
        raise HttpError(404, error.value, error.expected, error.remedy) from error
    return _response(context, state, record.target, components)


@router.post("/repair")
def repair(context: Context, state: State, request: RepairRequest) -> BeforeAfterResponse:
    """Return before and after for any components."""
    context.db.rows_of(request.components)
    class_samples(context, request.target)
    return _response(context, state, request.target, request.components)


def _response(
    context: ModelContext, state: AppState, target: int, components: Sequence[Component]
) -> BeforeAfterResponse:
    """Return what was kept in the database, or run the model."""
    db = context.db
    components = by_relevance(db, target, list(dict.fromkeys(components)))
    key = fingerprint(target, [str(one) for one in components], __version__, db.fingerprint)

    def compute() -> BeforeAfterResponse:
        with context.run_model("Before and after"):
            return _to_response(db, before_after(db, target, components))

    return state.jobs.result(
        f"before-after/{context.number}/{key}",
        f"Putting the artefact of '{class_name(db, target)}' on other images",
        lambda: _kept(db, f"before-after-{target}", key, compute),
        large=True,
    )


def _kept(
    db: ConceptDatabase, name: str, key: str, compute: Callable[[], BeforeAfterResponse]
) -> BeforeAfterResponse:
    """Return the response that was saved for this key, or compute and save it."""
    with suppress(StoreError, ValueError):  # it can be recomputed
        saved = db.load_with_origin(name)
        if saved is not None and saved[1].get("key") == key:
            return BeforeAfterResponse.model_validate_json(str(saved[0]["response"].iloc[0]))
    response = compute()
    if db.is_writable:
        with suppress(StoreError):  # another process may be writing it
            frame = pd.DataFrame({"response": [response.model_dump_json()]})
            db.save_analysis(name, frame, {"key": key})
    return response


def _to_response(db: ConceptDatabase, result: BeforeAfter) -> BeforeAfterResponse:
    preview = result.preview
    names = [str(component) for component in preview.components]
    pieces = None if result.mark is None else result.mark.pieces
    commands = correction_commands(db, names, pieces)
    return BeforeAfterResponse(
        target=preview.target,
        name=result.name,
        components=names,
        images=len(preview.samples),
        classes=len(set(preview.right.tolist())),
        works=result.works,
        helps=result.helps,
        costs=result.costs,
        finding=_curly(result.finding, result.name),
        caution=result.caution and _curly(result.caution, result.name),
        cost=_curly(result.cost, result.name),
        turned=int(result.turned.sum()),
        kept=result.kept,
        advice=result.advice and _curly(result.advice, result.name),
        acting=[str(one) for one in result.steps[-1].added[:ACTING]] if result.steps else [],
        suggested=[str(component) for component in result.suggested],
        mark=None if result.mark is None else _mark(result.mark, result.effect),
        reason=result.reason,
        marked=None if result.marked is None else _condition(result, result.marked),
        unmarked=_condition(result, result.unmarked),
        recalls=[
            ClassRecall(target=one, name=class_name(db, one), recall=rate)
            for one, rate in result.recalls()
        ],
        cutout_command=commands.cutout,
        prune_command=commands.prune,
        retrain_commands=commands.retrain,
    )


def _curly(text: str, name: str) -> str:
    """Return a sentence with the page's quotes around the name of the class."""
    return text.replace(f"'{name}'", f"\u201c{name}\u201d")


def _mark(mark: Mark, effect: RateChange | None) -> MarkResponse:
    return MarkResponse(
        components=[str(component) for component in mark.segments.components],
        cutouts=len(mark.pieces.images),
        separation=mark.segments.vector.separation,
        control=effect,
        control_piece=None if mark.control is None else _piece(mark.control.images[0]),
        way=mark.way,
        trials=[
            MarkTrial(way=trial.way, taken=trial.taken, control=plain(trial.control))
            for trial in mark.trials
        ],
        pieces=[_piece(piece) for piece in mark.pieces.images[:PIECES]],
    )


def _piece(piece: Image.Image) -> str:
    """Return a cut-out on grey, as a data URL."""
    piece = trim_faint_border(piece)
    picture = paste_piece(Image.new("RGB", piece.size, GREY), piece, (0, 0))
    picture.thumbnail((PIECE_SIZE, PIECE_SIZE))
    return webp_uri(encode_webp(picture))


def _condition(result: BeforeAfter, predictions: Predictions) -> Condition:
    preview = result.preview
    was, now = predictions.before == preview.right, predictions.after == preview.right
    return Condition(
        images=len(preview.samples),
        accuracy=preview.accuracy(predictions),
        recall=preview.accuracy(predictions, preview.target),
        taken=preview.mistaken(predictions),
        changed=int((predictions.before != predictions.after).sum()),
        fixed=int((now & ~was).sum()),
        broken=int((was & ~now).sum()),
        candidates=int(result.candidates(predictions).sum()),
        shown=[
            _image(result, predictions, int(position))
            for position in result.shown(predictions, SHOWN)
        ],
    )


def _known(probability: np.floating) -> float | None:
    """Return a probability; None for an image without prediction."""
    return None if np.isnan(probability) else float(probability)


def _image(result: BeforeAfter, predictions: Predictions, position: int) -> ShownImage:
    db, sample = result.database, int(result.preview.samples[position])

    def name(classes: np.ndarray) -> str:
        return class_name(db, int(classes[position]))

    image = result.picture(predictions, position)
    image.thumbnail((SIZE, SIZE))
    return ShownImage(
        sample=sample,
        path=db.sample(sample).path,
        true_class=name(result.preview.right),
        original=name(result.unmarked.before),
        before=name(predictions.before),
        before_probability=_known(predictions.probability_before[position]),
        after=name(predictions.after),
        after_probability=_known(predictions.probability_after[position]),
        image=webp_uri(encode_webp(image)),
    )
