"""What is served: the models, their layers, and what can be asked of them."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from semlens.api import ConceptDatabase
from semlens.web.app_state import All, Model, ModelContext
from semlens.web.embedder import SharedEmbedder
from semlens.web.jobs import JobQueue

router = APIRouter(tags=["models"])


class LayerInfo(BaseModel):
    """One layer of a database."""

    number: int
    """Place in the database's list of layers."""
    name: str
    components: int
    channels: int
    signs: str
    """``+``, or ``both`` when negative activations count as components of their own."""
    first: int
    """Row of its first component."""
    crop: str
    without_examples: int


class ModelInfo(BaseModel):
    """One database."""

    number: int
    name: str
    model: str
    data: str
    embedder: str
    text: bool
    """Whether it can be searched by texts."""
    notice: str | None
    """Why there is no embedder, after one could not be loaded."""
    relevance: bool
    thumbnails: bool
    components: int
    samples: int
    dim: int
    layers: list[LayerInfo]
    classes: int
    """Number of class names; 0 when they are not known."""
    fingerprint: str


@router.get("/models")
def list_models(serving: All) -> list[ModelInfo]:
    """Return what is served, in the order given."""
    return [describe(served, serving.work) for served in serving.models]


@router.get("/models/{m}")
def one_model(model: Model, serving: All) -> ModelInfo:
    """Return one of them."""
    return describe(model, serving.work)


def describe(served: ModelContext, work: JobQueue) -> ModelInfo:
    """Return what the page has to know of a database before it asks for anything."""
    db = served.db
    manifest = db.manifest
    embedder = db.embedder
    failure = embedder.failure if isinstance(embedder, SharedEmbedder) else None
    if isinstance(embedder, SharedEmbedder) and not embedder.looked_at:
        key = f"texts {embedder.fingerprint}"
        work.result(key, "looking at the embedder", lambda: embedder.has_text, short=True)
    return ModelInfo(
        number=served.number,
        name=served.name,
        model=manifest.model.spec,
        data=manifest.data.spec,
        embedder=manifest.embedder.spec,
        text=embedder.has_text,
        notice=str(failure) if failure else None,
        relevance=manifest.relevance is not None,
        thumbnails=manifest.recipe.thumbnails,
        components=manifest.rows,
        samples=manifest.samples,
        dim=manifest.dim,
        layers=layers_of(db),
        classes=len(manifest.classes or ()),
        fingerprint=db.fingerprint,
    )


def layers_of(db: ConceptDatabase) -> list[LayerInfo]:
    """Return the layers of a database, in the order of their rows."""
    return [
        LayerInfo(
            number=number,
            name=entry.name,
            components=entry.rows,
            channels=entry.channels,
            signs=one["signs"],
            first=entry.first,
            crop=entry.crop,
            without_examples=one["without_examples"],
        )
        for number, (entry, one) in enumerate(
            zip(db.manifest.layers, db.summary().to_dict("records"), strict=True)
        )
    ]
