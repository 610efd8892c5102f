"""Routes that compare images by the subject model, without words: swaps, and contrast."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
from semlens.draw.encode_images import encode_webp
from semlens.draw.html import webp_uri
from semlens.lenses.classes import class_name, class_samples, true_classes
from semlens.lenses.contrast.contrast import Contrast, contrast
from semlens.lenses.swap.kept import kept_swap
from semlens.lenses.swap.pairs import REFERENCE
from semlens.lenses.swap.parts import WORDS, Part
from semlens.lenses.swap.swap_result import Swap
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


class SwapGain(BaseModel):
    """How much parts of a class's images raise its logit on images of other classes."""

    target: int
    name: str
    size: float
    """Size of the parts: of 1, all."""
    gain: float
    """Mean rise, in units of the logit."""
    p_value: float
    adjusted: float
    """Corrected for all tests of all swaps that were run (Bonferroni)."""
    detected: bool


class PastedPair(BaseModel):
    """An image of another class before and after the parts were moved to it, as data URLs."""

    before: str
    after: str


class SwapResponse(BaseModel):
    """Which classes rely on such parts of their images; smallest p-value first."""

    kind: Part
    name: str
    parts: str
    """What is moved to other images: "the borders of its images"."""
    size: str
    """What the sizes are: "width"."""
    detected: list[str]
    classes: int
    """Number of classes that were tested."""
    images: int
    """Images per class."""
    tests: int
    """Number of tests that the p-values are corrected for."""
    experiments: int
    """Number of swaps that they are of."""
    gains: list[SwapGain]
    pasted: list[PastedPair]
    """Examples for the first row."""


class KeptSwap(BaseModel):
    """A swap that was run, and the classes that were tested."""

    kind: Part
    targets: list[int]


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


@router.get("/swaps")
def list_swaps(context: Context) -> list[KeptSwap]:
    """Return the swaps that the database keeps: they are shown without running the model."""
    kept = kept_swap(context.db)
    if kept is None:
        return []
    return [
        KeptSwap(kind=part, targets=sorted(set(kept.rows(part)["logit"].tolist())))
        for part in kept.parts
    ]


@router.get("/swaps/{kind}")
def run_swap(
    context: Context, state: State, kind: Part, target: OptionalClass = None
) -> SwapResponse:
    """Test whether a class relies on such parts of its images; without a class, all of them.

    What the database keeps is not run again.
    """
    db = context.db
    about, tested = "all classes", _most_tested(db)
    if target is not None:
        class_samples(db, target, 1)  # fails early, before the model is loaded
        about, tested = f"\u201c{class_name(db, target)}\u201d", 1
    question = WORDS[kind].name

    def compute() -> Swap:
        with context.run_model(f"The {question}"):
            return db.swap(None if target is None else [target], part=kind)

    found = _kept(db, kind, target, tested)
    if found is None:
        key = f"{kind}-swap/{context.number}/{target}/{db.fingerprint}"
        done = state.jobs.result(key, f"Running the {question} of {about}", compute)
        found = _kept(db, kind, target, tested) or done
    return swap_response(kind, found, target)


def _most_tested(db: ConceptDatabase) -> int:
    """Return how many classes a swap of all classes tests: those with images, of many some."""
    true = true_classes(db)
    return min(len(set(true[~np.isnan(true)].tolist())), REFERENCE)


def _kept(db: ConceptDatabase, part: Part, target: int | None, tested: int) -> Swap | None:
    """Return what is kept, if the part of the class or of enough classes was moved."""
    kept = kept_swap(db)
    if kept is None:
        return None
    targets = set(kept.rows(part)["logit"])
    return kept if (target in targets if target is not None else len(targets) >= tested) else None


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
        with context.run_model("The contrast"):
            return contrast(db, errors=target)

    description = f"Comparing the errors on '{class_name(db, target)}' with correct predictions"
    key = contrast_key(context, target)
    return state.jobs.result(key, description, compute, large=True)


def contrast_key(context: ModelContext, target: int) -> str:
    """Return the key of a contrast among the jobs."""
    return f"contrast/{context.number}/{target}"


def swap_response(part: Part, found: Swap, target: int | None) -> SwapResponse:
    """Return what one part does as a response: to one class, or to all that were tested."""
    of_part = found.rows(part).reset_index(drop=True)
    table: Any = of_part if target is None else of_part.loc[of_part["logit"] == target]
    pasted = found.pasted.get(part, ()) if len(table) and table.index[0] == 0 else ()
    table = table.rename(columns={"class": "name", "logit": "target"})
    words = WORDS[part]
    return SwapResponse(
        kind=part,
        name=words.name,
        parts=words.parts,
        size=words.size,
        detected=list(dict.fromkeys(table.loc[table["detected"], "name"])),
        classes=len(set(table["target"])),
        images=found.images[part],
        tests=len(found.frame),
        experiments=len(found.parts),
        gains=records(SwapGain, table),
        pasted=[
            PastedPair(before=webp_uri(encode_webp(before)), after=webp_uri(encode_webp(after)))
            for before, after in pasted
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
