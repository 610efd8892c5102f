"""Route that proposes concepts for an audit: what only this class relies on."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from semlens.lenses.audit.suspects import LEVEL, suspects
from semlens.recipe import fingerprint
from semlens.web.app_state import Context, State, records
from semlens.web.routes.audits import get_audit

router = APIRouter(prefix="/models/{m}", tags=["audit"])

MAX_SUSPECTS = 12
"""Suspects in a response."""


class Suspect(BaseModel):
    """A word or a cluster of the map that only this class relies on."""

    kind: str
    suspect: str
    share: float
    """Share of the class's relevance on components that match it."""
    share_others: float
    """The largest such share of another class."""
    p_value: float
    """Family-wise over all words and clusters."""
    detected: bool
    components: list[str]
    """Components that match it, most relevant first."""


class SuspectsResponse(BaseModel):
    """Suspects of a class; smallest p-value first."""

    tested: int
    """Number of words and clusters that were ranked."""
    suspects: list[Suspect]


@router.get("/audits/{number}/suspects")
def audit_suspects(context: Context, state: State, number: int) -> SuspectsResponse:
    """Rank all words and clusters by what only the audited class relies on.

    What its valid concepts explain is left out.
    """
    record = get_audit(context, number)
    valid = record.concepts.of_kind("valid")
    key = fingerprint([record.target, [c.name for c in valid.concepts]], context.db.fingerprint)
    result = state.jobs.result(
        f"suspects/{context.number}/{key}",
        f"Ranking suspects of '{record.target_name}'",
        lambda: suspects(context.db, record.target, valid, top=MAX_SUSPECTS),
    )
    table = result.frame.assign(detected=result.frame["p_value"] < LEVEL)
    return SuspectsResponse(tested=result.tested, suspects=records(Suspect, table))
