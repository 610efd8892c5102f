"""Routes that compare images by the subject model, without words: swaps, and contrast."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
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
)
from semlens.web.routes.lenses import LensResult, json_response, lens_result

router = APIRouter(prefix="/models/{m}/experiments", tags=["audit"])

RequiredClass = Annotated[int, Query(alias="class", ge=0, le=MAX_INT)]
"""Logit of the class in ``?class=``."""


class SwapResponse(LensResult):
    """Which classes rely on such parts of their images; smallest p-value first."""

    detected: list[str]
    classes: int
    """Number of classes that were tested."""
    images: int
    """Images per class."""
    tests: int
    """Number of tests that the p-values are corrected for."""
    experiments: int
    """Number of swaps that they are of."""


class KeptSwap(BaseModel):
    """A swap that was run, and the classes that were tested."""

    kind: Part
    targets: list[int]


class ContrastResponse(LensResult):
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


@router.get("/swaps/{kind}", responses={200: {"model": SwapResponse}})
def run_swap(context: Context, state: State, kind: Part, target: OptionalClass = None) -> Response:
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
    return json_response(swap_response(kind, found, target))


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


@router.get("/contrast", responses={200: {"model": ContrastResponse}})
def contrast_errors(context: Context, state: State, target: RequiredClass) -> Response:
    """Compare the errors on a class with its correct predictions."""
    return json_response(contrast_response(error_contrast(context, state, target)))


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
    rows = found.rows(part)
    first = rows["logit"].iloc[0]
    shown = rows if target is None else rows.loc[rows["logit"] == target]
    pasted = found.pasted if target in (None, first) else {}  # examples are of the first class
    swap = replace(found, frame=shown, pasted=pasted)
    name = None if target is None else str(shown["class"].iloc[0])
    return SwapResponse(
        **vars(lens_result(swap, name)),
        detected=swap.detected,
        classes=len(set(shown["logit"])),
        images=found.images[part],
        tests=len(found.frame),
        experiments=len(found.parts),
    )


def contrast_response(result: Contrast) -> ContrastResponse:
    """Return a contrast of errors as a response."""
    target = result.target or 0
    return ContrastResponse(
        **vars(lens_result(result)),
        target=target,
        name=class_name(result.database, target),
        errors=len(result.a),
        correct=len(result.b),
        components=len(result.frame),
        different=result.different,
    )
