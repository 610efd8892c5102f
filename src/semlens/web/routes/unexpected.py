"""Route of the components that a class relies on and no concept describes."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.lenses.class_relevance import MINIMUM
from semlens.lenses.classes import class_name
from semlens.lenses.describe.unexpected import Unexpected, unexpected
from semlens.lenses.resolve_concepts import concepts_by_class
from semlens.lenses.result import plain
from semlens.web.app_state import Context, State
from semlens.web.routes.classes import class_samples
from semlens.web.routes.verdicts import class_verdicts

router = APIRouter(prefix="/models/{m}/classes", tags=["audit"])

CLASSES = 5
"""Classes that are listed for each component."""
FILES = 8
"""Example files that are listed for each component."""


class NearConcept(BaseModel):
    """A concept near a component, with its score."""

    concept: str
    score: float


class DrivenClass(BaseModel):
    """A class with a component's mean share of its relevance in the layer."""

    target: int
    name: str
    mean: float


class ExampleFile(BaseModel):
    """The image behind an example."""

    sample: int
    path: str
    class_name: str | None


class UnexpectedComponent(BaseModel):
    """A component that a class relies on and no concept describes."""

    component: str
    mean: float
    """Mean share of its layer's relevance for the class."""
    max: float
    clarity: float | None
    nearest: list[NearConcept]
    examples: int
    of_class: int | None
    """Examples that are of the class; null if no class of theirs is known."""
    classes: list[DrivenClass]
    """Classes that it is most relevant for; always includes the class itself."""
    files: list[ExampleFile]


class UnexpectedResponse(BaseModel):
    """What a class relies on and no concept describes, most relevant first."""

    target: int
    name: str
    sentence: str
    audited: bool
    """Whether a component is unexpected by its audit, or by a general vocabulary."""
    total: int
    components: list[UnexpectedComponent]


@router.get("/{c}/unexpected")
def class_unexpected(
    context: Context, state: State, c: int, k: Annotated[int, Query(ge=1, le=100)] = 12
) -> UnexpectedResponse:
    """Return the components that a class relies on and no concept describes (Fig. 2d).

    These are the unexpected ones of its audit; for a class without lists, those that no concept
    of a general vocabulary describes.
    """
    db = context.db
    class_samples(context, c)  # raises if the class has no relevance
    verdicts = class_verdicts(context, state, c)
    names = [one.component for one in verdicts.components if one.verdict == "unexpected"]
    settings: dict[str, Any] = {}
    if verdicts.components:
        audit = verdicts.audit
        minimum = MINIMUM if audit is None else db.audits.get(audit).settings.minimum
        concepts = concepts_by_class(db, files=False)[0][c].concepts
        settings = {"concepts": concepts, "components": names, "minimum": minimum}
    result = state.jobs.result(
        f"unexpected/{context.number}/{c}/{k}/{','.join(names)}",
        f"Describing what '{class_name(db, c)}' relies on",
        lambda: unexpected(db, c, top=k, **settings),
    )
    return UnexpectedResponse(
        target=c,
        name=result.name,
        sentence=result.summary(),
        audited=bool(verdicts.components),
        total=result.total,
        components=[_component(result, row) for row in result.frame.to_dict("records")],
    )


def _component(result: Unexpected, row: dict[Any, Any]) -> UnexpectedComponent:
    def of(table: pd.DataFrame) -> Any:
        return table[table["component"] == row["component"]]

    classes: Any = of(result.classes)
    driven = classes[classes["mean"] > 0].head(CLASSES)
    if result.target not in set(driven["logit"]):
        own = classes[classes["logit"] == result.target]
        driven = pd.concat([driven.head(CLASSES - 1), own])
    nearest = zip(row["nearest"], row["scores"], strict=True)
    files = of(result.files).head(FILES).astype(object)
    files = files.where(files.notna(), None)
    return UnexpectedComponent(
        component=row["component"],
        mean=row["mean"],
        max=row["max"],
        clarity=None if row["clarity"] != row["clarity"] else row["clarity"],
        nearest=[NearConcept(concept=concept, score=score) for concept, score in nearest],
        examples=row["examples"],
        of_class=plain(row["of_class"]),
        classes=[
            DrivenClass(target=one["logit"], name=one["class"], mean=one["mean"])
            for one in driven.to_dict("records")
        ],
        files=[
            ExampleFile(sample=one["sample"], path=one["path"], class_name=one["class"])
            for one in files.to_dict("records")
        ],
    )
