"""The audit of all classes at a glance (paper, Fig. 3b)."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.analysis.audit.sweep import audit_all
from semlens.analysis.concept_sets import concepts_by_class
from semlens.recipe import fingerprint
from semlens.web.routes.audit_requests import Text, content_of
from semlens.web.served import All, Model, records

router = APIRouter(prefix="/models/{m}", tags=["audit"])


class SweepClass(BaseModel):
    """What a class rests on, in shares of its relevance."""

    target: int
    name: str
    audit: int | None
    """The saved audit whose lists it is held against."""
    sets: list[str]
    """Otherwise the sets that an audit of it begins with."""
    components: int
    valid: float
    both: float
    spurious: float
    unexpected: float
    alarm: bool
    p_value: float | None
    q_value: float | None
    """The expected share of false alarms among classes with this p or a smaller one."""
    concept: str | None
    """The spurious concept with the largest share."""
    concept_share: float | None


class SweepSkipped(BaseModel):
    """A class that has concepts and was left out."""

    name: str
    reason: str


class SweepAnswer(BaseModel):
    """One audit per class; the smallest p first."""

    classes: list[SweepClass]
    skipped: list[SweepSkipped]
    unlisted: int
    """Classes with relevance that no concept set is for."""
    sets: list[str]
    """What the classes were held against."""


@router.get("/sweep")
def sweep(
    served: Model,
    serving: All,
    sets: Annotated[list[Text] | None, Query(max_length=200)] = None,
) -> SweepAnswer:
    """Audit every class that has concepts.

    Without ``sets``: by the lists of its saved audit that was edited last; or by the bundled
    sets that are for it, with the artefacts if these name nothing spurious.
    """
    db = served.db
    held, skipped = concepts_by_class(db, sets, files=False)
    key = fingerprint(
        [[number, content_of(one.concepts)] for number, one in held.items()], db.fingerprint
    )
    found = serving.work.result(
        f"sweep/{served.number}/{key}",
        f"auditing {len(held)} classes",
        lambda: audit_all(db, [one.concepts for one in held.values()]),
    )
    sources = [held[one.target] for one in found.audits.values()]
    table = found.frame.rename(columns={"class": "name"}).assign(
        target=[one.target for one in found.audits.values()],
        audit=pd.Series([one.audit for one in sources], dtype=object),
        sets=[() if one.audit is not None else one.sets for one in sources],
    )
    # what nothing was said against comes last
    table = table.sort_values(["p_value", "spurious"], ascending=[True, False], kind="stable")
    reasons = {**{name: error.value for name, error in skipped.items()}, **found.skipped}
    return SweepAnswer(
        classes=records(SweepClass, table),
        skipped=[SweepSkipped(name=name, reason=reason) for name, reason in reasons.items()],
        unlisted=len(set(db.relevance_classes["class"]) - set(held)),
        sets=sorted({name for one in held.values() for name in one.sets}),
    )
