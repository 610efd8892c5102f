"""What the audit page is answered: saved audits, and what they find."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from semlens.analysis.audit.audit import SIDES
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.relevance_shares import Verdict
from semlens.analysis.audit.saved_audits import AuditRecord, ListedConcept
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.resolve_concepts import class_of
from semlens.analysis.result import plain
from semlens.api import ConceptDatabase
from semlens.web.app_state import records
from semlens.web.routes.classes import ClassCount


class ConceptSetInfo(BaseModel):
    """A concept set that an audit can begin with."""

    name: str
    target: str | None
    """The class that it is for, as it says itself."""
    logit: int | None
    """That class in this model, if it has it."""
    kept: bool
    """Whether it is the lists of a saved audit."""
    valid: list[ListedConcept]
    spurious: list[ListedConcept]
    others: int
    """Concepts that are neither."""


class SavedAuditResponse(AuditRecord):
    """A saved audit: what people edit of it."""

    kept: bool
    """Whether edits outlive the server."""
    stale: bool
    """Whether the database has changed since it was made."""


class AuditEntry(BaseModel):
    """A saved audit in the list of all."""

    id: int
    audit: SavedAuditResponse | None
    problem: str | None
    """Why it cannot be read."""


class SavedAuditsResponse(BaseModel):
    """All saved audits, latest edit first, and the classes that can be audited."""

    audits: list[AuditEntry]
    classes: list[ClassCount]
    kept: bool
    """Whether edits outlive the server: not in a folder that is for reading only."""
    text: bool
    """Whether the embedder reads texts."""


class ShareRow(BaseModel):
    """How much one verdict has in one layer or, last, in all; null without draws."""

    layer: str
    verdict: Verdict
    components: int
    by_number: float
    by_number_low: float | None
    by_number_high: float | None
    by_relevance: float
    by_relevance_low: float | None
    by_relevance_high: float | None


class NullShareRow(BaseModel):
    """What a side claims of the relevance, against random concept sets of its size."""

    side: str
    layer: str
    share: float
    expected: float
    p_value: float


class ConceptRow(BaseModel):
    """How many components align with a concept best, and their relevance."""

    concept: str
    kind: str
    category: str
    components: int
    relevance: float


class AuditedComponent(BaseModel):
    """One relevant component; what there is no side for is null."""

    component: str
    layer: str
    mean: float
    max: float
    weight: float
    """Its part of the relevance in all layers."""
    verdict: Verdict
    certainty: float | None
    valid: float | None
    valid_concept: str | None
    valid_threshold: float | None
    spurious: float | None
    spurious_concept: str | None
    spurious_threshold: float | None


class AuditResponse(BaseModel):
    """What an audit finds; components most relevant first."""

    sentence: str
    alarm: bool
    p_value: float | None
    level: float
    shares: list[ShareRow]
    chance: list[NullShareRow]
    concepts: list[ConceptRow]
    components: list[AuditedComponent]


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


class SweepResponse(BaseModel):
    """One audit per class; the smallest p first."""

    classes: list[SweepClass]
    skipped: dict[str, str]
    """Why a class that has concepts was left out, by its name."""
    unlisted: int
    """Classes with relevance that no concept set is for."""
    sets: list[str]
    """What the classes were held against."""


def set_info(
    db: ConceptDatabase, concepts: ConceptSet, name: str, *, kept: bool = False
) -> ConceptSetInfo:
    """Describe a concept set, and say which class of the model it is for."""
    valid, spurious = (
        [_named(ListedConcept.of(one)) for one in concepts.of_kind(kind).concepts] for kind in SIDES
    )
    return ConceptSetInfo(
        name=name,
        target=concepts.target,
        logit=class_of(db, concepts),
        kept=kept,
        valid=valid,
        spurious=spurious,
        others=len(concepts) - len(valid) - len(spurious),
    )


def saved_of(db: ConceptDatabase, record: AuditRecord) -> SavedAuditResponse:
    """Return what people edit of a saved audit."""
    sides = {side: tuple(map(_named, getattr(record, side))) for side in SIDES}
    more = {"kept": db.audits.keeps, "stale": record.database != db.fingerprint}
    return SavedAuditResponse.model_validate({**dict(record), **sides, **more})


def _named(term: ListedConcept) -> ListedConcept:
    """Return a concept without the folders of its images, which are nobody's business."""
    return term.model_copy(update={"images": tuple(Path(one).name for one in term.images)})


def answer_of(found: Audit) -> AuditResponse:
    """Return an audit as the page takes it."""
    return AuditResponse(
        sentence=found.sentence,
        alarm=found.alarm,
        p_value=plain(found.p_value),
        level=found.settings["level"],
        shares=records(ShareRow, found.shares),
        chance=records(NullShareRow, found.chance),
        concepts=records(ConceptRow, found.summary),
        components=records(AuditedComponent, found.frame.assign(weight=found.weights)),
    )
