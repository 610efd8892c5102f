"""Routes that compare images by the subject model, without words: border swap, and contrast."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.analysis.classes import class_name, class_samples
from semlens.analysis.contrast.contrast import Contrast, contrast
from semlens.analysis.label import VOCABULARY
from semlens.analysis.saved_labels import label_tables, labels_by_component
from semlens.analysis.swap.border_swap import BorderSwap, border_swap
from semlens.draw.encode_images import encode_webp
from semlens.draw.html import webp_uri
from semlens.web.app_state import (
    MAX_INT,
    AppState,
    Context,
    ModelContext,
    OptionalClass,
    State,
    records,
)

router = APIRouter(prefix="/models/{m}/experiments", tags=["audit"])

MAX_COMPONENTS = 50
"""Components in a response, most separating first."""
MAX_LOGITS = 8
"""Logits in a response, largest shift first."""

RequiredClass = Annotated[int, Query(alias="class", ge=0, le=MAX_INT)]
"""Logit of the class in ``?class=``."""


class BorderGain(BaseModel):
    """How much borders of a class's images raise its logit on images of other classes."""

    target: int
    name: str
    width: float
    """Width of the border, as a share of the sides."""
    gain: float
    """Mean rise, in units of the logit."""
    p_value: float
    adjusted: float
    """Corrected for all rows (Bonferroni)."""
    detected: bool


class PastedPair(BaseModel):
    """An image of another class before and after the border was pasted, as data URLs."""

    before: str
    after: str


class BorderSwapResponse(BaseModel):
    """Which classes rely on their surroundings; smallest p-value first."""

    detected: list[str]
    classes: int
    """Number of classes that were tested."""
    images: int
    """Images per class."""
    gains: list[BorderGain]
    pasted: list[PastedPair]
    """Examples for the first row."""


class ContrastComponent(BaseModel):
    """How well a component separates the errors on a class from its correct predictions."""

    component: str
    label: str | None
    auroc: float | None
    """Above 0.5: stronger on errors."""
    low: float | None
    high: float | None
    p_value: float | None
    """Family-wise over all components."""
    relevance: float | None
    """Mean share of its layer's relevance for the class."""


class ShiftedLogit(BaseModel):
    """A logit on the errors, compared with the correct predictions."""

    target: int
    name: str
    shift: float
    """Mean over the errors minus mean over the correct predictions."""
    auroc: float | None
    low: float | None
    high: float | None
    p_value: float | None


class ContrastResponse(BaseModel):
    """What tells the errors on a class from its correct predictions."""

    target: int
    name: str
    errors: int
    """Number of images of the class that the model takes for another class."""
    correct: int
    components: int
    """Number of components that were compared."""
    different: int
    """Number of them that differ at a family-wise error rate of 5 %."""
    strongest: list[ContrastComponent]
    logits: list[ShiftedLogit]


@router.get("/border-swap")
def run_border_swap(
    context: Context, state: State, target: OptionalClass = None
) -> BorderSwapResponse:
    """Test whether a class relies on what surrounds its objects; without a class, all of them."""
    db = context.db
    about = "all classes"
    if target is not None:
        class_samples(db, target, 1)  # fails early, before the model is loaded
        about = f"'{class_name(db, target)}'"

    def compute() -> BorderSwap:
        with context.run_model("The border swap"):
            return border_swap(db, target)

    description = f"Pasting borders of {about} onto other images"
    return border_swap_response(
        state.jobs.result(border_swap_key(context, target), description, compute)
    )


@router.get("/contrast")
def contrast_errors(context: Context, state: State, target: RequiredClass) -> ContrastResponse:
    """Compare the errors on a class with its correct predictions."""
    return contrast_response(error_contrast(context, state, target))


def error_contrast(context: ModelContext, state: AppState, target: int) -> Contrast:
    """Return the contrast of the errors on a class.

    Raises
    ------
    JobPending
        While the model is running.
    """
    db = context.db
    class_samples(db, target, 1)

    def compute() -> Contrast:
        tables = label_tables(db)
        labels = labels_by_component(db, tables[0].name) if tables else VOCABULARY
        with context.run_model("The contrast"):
            return contrast(db, errors=target, concepts=labels)

    description = f"Comparing the errors on '{class_name(db, target)}' with correct predictions"
    key = contrast_key(context, target)
    return state.jobs.result(key, description, compute, large=True)


def border_swap_key(context: ModelContext, target: int | None) -> str:
    """Return the key of a border swap among the jobs."""
    return f"border-swap/{context.number}/{target}"


def contrast_key(context: ModelContext, target: int) -> str:
    """Return the key of a contrast among the jobs."""
    return f"contrast/{context.number}/{target}"


def border_swap_response(result: BorderSwap) -> BorderSwapResponse:
    """Return a border swap as a response."""
    table = result.frame.rename(columns={"class": "name", "logit": "target"})
    return BorderSwapResponse(
        detected=result.detected,
        classes=len(set(result.frame["logit"])),
        images=result.images,
        gains=records(BorderGain, table),
        pasted=[
            PastedPair(before=webp_uri(encode_webp(before)), after=webp_uri(encode_webp(after)))
            for before, after in result.pasted
        ],
    )


def contrast_response(result: Contrast) -> ContrastResponse:
    """Return a contrast of errors as a response."""
    target = result.target or 0
    logits = result.logits.head(MAX_LOGITS)
    return ContrastResponse(
        target=target,
        name=class_name(result.database, target),
        errors=len(result.a),
        correct=len(result.b),
        components=len(result.frame),
        different=result.different,
        strongest=records(ContrastComponent, result.frame.head(MAX_COMPONENTS)),
        logits=records(ShiftedLogit, logits.rename(columns={"class": "name", "logit": "target"})),
    )
