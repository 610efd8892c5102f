"""Routes of the served models: their layers and capabilities."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
from semlens.lenses.classes import has_true_classes
from semlens.lenses.describe.database_warnings import build_command
from semlens.web.app_state import Context, ModelContext, State
from semlens.web.embedder import SharedEmbedder
from semlens.web.jobs import JobQueue

router = APIRouter(tags=["models"])


class LayerInfo(BaseModel):
    """A layer of a database."""

    number: int
    """Position in the list of layers, from 0."""
    name: str
    components: int
    channels: int
    signs: str
    """``+``, or ``both`` if negative activations are separate components."""
    first: int
    """Row of the first component."""
    crop: str
    without_examples: int


class ModelInfo(BaseModel):
    """A served database."""

    number: int
    name: str
    model: str
    data: str
    embedder: str
    has_text: bool
    """Whether components can be searched by text."""
    embedder_error: str | None
    """Why the embedder could not be loaded."""
    relevance: bool
    relevance_command: str | None
    """Command that adds class relevance; null if it is there, or no command can add it."""
    true_classes: bool
    """Whether the class of any image is known, as experiments and repairs need."""
    targets_command: str | None
    """Command that adds them from a file; null if they are there, or no command can."""
    thumbnails: bool
    components: int
    samples: int
    dim: int
    layers: list[LayerInfo]
    classes: int
    """Number of class names; 0 if unknown."""
    fingerprint: str


@router.get("/models")
def list_models(state: State) -> list[ModelInfo]:
    """Return the served models in their order."""
    return [describe(context, state.jobs) for context in state.models]


@router.get("/models/{m}")
def model_info(context: Context, state: State) -> ModelInfo:
    """Return a served model."""
    return describe(context, state.jobs)


def describe(context: ModelContext, jobs: JobQueue) -> ModelInfo:
    """Describe a database, without loading its embedder."""
    db = context.db
    manifest = db.manifest
    embedder = db.embedder
    failure = embedder.failure if isinstance(embedder, SharedEmbedder) else None
    if isinstance(embedder, SharedEmbedder) and not embedder.inspected:
        key = f"texts {embedder.fingerprint}"
        jobs.result(key, "Inspecting the embedder", lambda: embedder.has_text, short=True)
    known = has_true_classes(db)
    relevance = ["--relevance"] if manifest.relevance else []
    return ModelInfo(
        number=context.number,
        name=context.name,
        model=manifest.model.spec,
        data=manifest.data.spec,
        embedder=manifest.embedder.spec,
        has_text=embedder.has_text,
        embedder_error=str(failure) if failure else None,
        relevance=manifest.relevance is not None,
        relevance_command=None if manifest.relevance else build_command(db, "--relevance"),
        true_classes=known,
        targets_command=None
        if known
        else build_command(db, *relevance, "--targets", "classes.csv"),
        thumbnails=manifest.recipe.thumbnails,
        components=manifest.rows,
        samples=manifest.samples,
        dim=manifest.dim,
        layers=layer_infos(db),
        classes=len(manifest.classes or ()),
        fingerprint=db.fingerprint,
    )


def layer_infos(db: ConceptDatabase) -> list[LayerInfo]:
    """Describe the layers of a database in row order."""
    return [
        LayerInfo(
            number=number,
            name=entry.name,
            components=entry.rows,
            channels=entry.channels,
            signs=summary["signs"],
            first=entry.first,
            crop=entry.crop,
            without_examples=summary["without_examples"],
        )
        for number, (entry, summary) in enumerate(
            zip(db.manifest.layers, db.summary().to_dict("records"), strict=True)
        )
    ]
