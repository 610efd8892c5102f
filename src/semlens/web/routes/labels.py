"""Labelling all components with a concept set, and the tables of labels that are kept."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from semlens.analysis.concepts import ConceptSet, bundled_names
from semlens.analysis.label import THRESHOLD
from semlens.analysis.saved_labels import SavedLabels, label_tables
from semlens.errors import ConceptError, EmbedderError, nearest
from semlens.web.app_state import All, Model, ModelContext

router = APIRouter(prefix="/models/{m}", tags=["labels"])

DEFAULT = "paper-vocabulary"
CLASSES = "classes"
OWN = "own"
"""Names of sets that are no bundled ones: the model's classes, and texts that are sent."""


class LabelTables(BaseModel):
    """The tables of labels, newest (which pages show) first, and what one can label with."""

    tables: list[SavedLabels]
    sets: list[str]
    default: str = DEFAULT
    threshold: float = THRESHOLD
    text: bool
    """Whether the embedder reads texts, without which nothing can be labelled."""


class Labelling(BaseModel):
    """What to label with."""

    concepts: str = DEFAULT
    """Name of a bundled set, ``classes`` for the model's classes, or ``own`` for ``texts``."""
    threshold: float = Field(default=THRESHOLD, ge=-2, le=2)
    texts: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        default=[], max_length=5000
    )


@router.get("/labels")
def list_labels(served: Model) -> LabelTables:
    """Say which tables of labels there are, and which sets one can label with."""
    classes = [CLASSES] if served.db.manifest.classes else []
    return LabelTables(
        tables=label_tables(served.db),
        sets=[*bundled_names(), *classes, OWN],
        text=served.db.embedder.has_text,
    )


@router.post("/labels")
def label_components(served: Model, serving: All, wanted: Labelling) -> SavedLabels:
    """Label all components with a concept set and keep the labels, in place of older such ones."""
    if not served.db.embedder.has_text:
        raise EmbedderError(
            f"The embedder '{served.db.manifest.embedder.spec}' reads no texts.",
            "Expected one that does: labels are texts.",
            "Build a database with an embedder of images and texts.",
        )
    concepts = _concepts(served, wanted)
    found = serving.work.result(
        f"labels {served.number} {wanted.model_dump_json()}",
        f"labelling with '{concepts.name}'",
        lambda: served.db.label(concepts, threshold=wanted.threshold),
        large=True,
    )
    name = re.sub(r"[^\w.-]+", "-", wanted.concepts)
    with served.keeping:
        found.keep(name)
    return next(table for table in label_tables(served.db) if table.name == name)


def _concepts(served: ModelContext, wanted: Labelling) -> ConceptSet:
    """Return the set; never a file, since its path would come from the page."""
    if wanted.concepts == OWN:
        texts = list(dict.fromkeys(text.strip() for text in wanted.texts if text.strip()))
        if not texts:
            raise ConceptError("No text was given.", "Expected one or more.", "Write some.")
        return ConceptSet.of(texts, name="your concepts")
    classes = served.db.manifest.classes
    if wanted.concepts == CLASSES and classes:
        return ConceptSet.of(list(dict.fromkeys(classes)), name="the model's classes")
    if wanted.concepts not in bundled_names():
        raise ConceptError(
            f"There is no concept set '{wanted.concepts}'.",
            f"The nearest ones are {nearest(wanted.concepts, bundled_names())}.",
            "Choose one of them.",
        )
    return ConceptSet.load(wanted.concepts)
