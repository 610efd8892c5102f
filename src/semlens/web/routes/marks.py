"""Routes of marks: components that a person calls spurious for a class."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from semlens.lenses.audit.saved_audits import (
    audit_of_reviews,
    review_as_spurious,
    reviewed_as_spurious,
)
from semlens.lenses.classes import class_name
from semlens.types import Component
from semlens.web.app_state import Context, ModelContext
from semlens.web.responses import RequestModel
from semlens.web.routes.classes import class_samples

router = APIRouter(prefix="/models/{m}/marks", tags=["audit"])


class Marks(BaseModel):
    """The components that a person has marked as spurious for a class."""

    target: int
    name: str
    components: list[str]
    audit: int | None
    """Saved audit that holds the marks, or that this request has changed; null if there is none."""


class MarkRequest(RequestModel):
    """Components to mark as spurious, or to take the marks of."""

    components: Annotated[list[Component], Field(min_length=1, max_length=5000)]
    spurious: bool


@router.get("/{target}")
def marks(context: Context, target: int) -> Marks:
    """Return the components that a person has marked as spurious for a class."""
    class_samples(context, target)  # raises if the class has no relevance
    return _marks(context, target, audit_of_reviews(context.db, target))


@router.put("/{target}")
def mark(context: Context, target: int, request: MarkRequest) -> Marks:
    """Mark components as spurious for a class, or take the marks back."""
    class_samples(context, target)
    record = review_as_spurious(context.db, target, request.components, request.spurious)
    return _marks(context, target, record and record.id)


def _marks(context: ModelContext, target: int, audit: int | None) -> Marks:
    name = class_name(context.db, target)
    return Marks(
        target=target, name=name, components=reviewed_as_spurious(context.db, target), audit=audit
    )
