"""Routes of labels: the saved label tables, and labelling all components."""

from __future__ import annotations

import re
from typing import Annotated

import numpy as np
import pandas as pd
from fastapi import APIRouter
from pydantic import BaseModel, Field

from semlens.errors import ConceptError, EmbedderError, nearest
from semlens.lenses.concepts import ConceptSet, bundled_names
from semlens.lenses.labelling.component_labels import SavedLabels, label_tables
from semlens.lenses.labelling.confidence import is_calibrated
from semlens.web.app_state import Context, ModelContext, State
from semlens.web.label_sources import component_names
from semlens.web.responses import RequestModel

router = APIRouter(prefix="/models/{m}", tags=["labels"])

DEFAULT = "paper-vocabulary"
CLASSES = "classes"
CUSTOM = "custom"
"""Names of sets that are not bundled: the model's classes, and texts in the request."""


class LabelTables(BaseModel):
    """The saved label tables, newest first, and the concept sets to label with."""

    tables: list[SavedLabels]
    sets: list[str]
    default: str = DEFAULT
    has_text: bool
    """Whether the embedder embeds texts, which labelling requires."""


class LabelRequest(RequestModel):
    """Concepts to label all components with."""

    concepts: str = DEFAULT
    """Name of a bundled set, ``classes`` for the model's classes, or ``custom`` for ``texts``."""
    threshold: float | None = None
    """Minimum score; null calibrates it, so that labels are above noise."""
    texts: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default=[], max_length=5000
    )


class Names(BaseModel):
    """The label of every component, in row order; empty without labels."""

    source: str | None
    """The saved labels (``saved:NAME``), or the concept set; null without labels."""
    calibrated: bool
    """Whether the confidence was calibrated for the database's embedder."""
    words: list[str]
    """The words that occur."""
    label: list[int]
    """Index of each component's label in ``words``; -1 for none."""
    rival: list[int]
    """Index of the word that may be right instead; -1 for none."""
    confidence: list[float | None]
    """Probability that the label is right; null if unknown."""


@router.get("/names")
def names(context: Context, state: State) -> Names:
    """Return what all components are called: the newest saved labels, or else the default ones."""
    found = component_names(context, state)
    if found is None:
        return Names(source=None, calibrated=False, words=[], label=[], rival=[], confidence=[])
    frame = found.frame
    both = pd.concat([frame["label"], frame["rival"]], ignore_index=True)
    codes, words = pd.factorize(both)
    confidence = [None if np.isnan(c) else round(c, 3) for c in frame["confidence"].tolist()]
    return Names(
        source=found.source,
        calibrated=is_calibrated(context.db.manifest.embedder.fingerprint, found.method),
        words=words.tolist(),
        label=codes[: len(frame)].tolist(),
        rival=codes[len(frame) :].tolist(),
        confidence=confidence,
    )


@router.get("/labels")
def list_labels(context: Context) -> LabelTables:
    """Return the saved label tables and the concept sets to label with."""
    classes = [CLASSES] if context.db.manifest.classes else []
    return LabelTables(
        tables=label_tables(context.db),
        sets=[*bundled_names(), *classes, CUSTOM],
        has_text=context.db.embedder.has_text,
    )


@router.post("/labels")
def label_components(context: Context, state: State, request: LabelRequest) -> SavedLabels:
    """Label all components and save the labels, replacing those of the same concept set."""
    if not context.db.embedder.has_text:
        raise EmbedderError(
            f"The embedder '{context.db.manifest.embedder.spec}' cannot embed texts.",
            "Expected an embedder of images and texts: labels are texts.",
            "Build a database with such an embedder.",
        )
    concepts = _concepts(context, request)
    labels = state.jobs.result(
        f"labels {context.number} {request.model_dump_json()}",
        f"Labelling with '{concepts.name}'",
        lambda: context.db.label(concepts, threshold=request.threshold),
        large=True,
    )
    name = re.sub(r"[^\w.-]+", "-", request.concepts)
    with context.save_lock:
        labels.save_to_database(name)
    return next(table for table in label_tables(context.db) if table.name == name)


def _concepts(context: ModelContext, request: LabelRequest) -> ConceptSet:
    """Return the concept set; file paths are refused, since the name comes from the page."""
    if request.concepts == CUSTOM:
        texts = list(dict.fromkeys(text.strip() for text in request.texts if text.strip()))
        if not texts:
            raise ConceptError(
                "No concepts were given.", "Expected at least one.", "Enter one concept per line."
            )
        return ConceptSet.of(texts, name="your concepts")
    classes = context.db.manifest.classes
    if request.concepts == CLASSES and classes:
        return ConceptSet.of(list(dict.fromkeys(classes)), name="the model's classes")
    if request.concepts not in bundled_names():
        raise ConceptError(
            f"Unknown concept set '{request.concepts}'.",
            f"The closest names are {nearest(request.concepts, bundled_names())}.",
            "Choose one of them.",
        )
    return ConceptSet.load(request.concepts)
