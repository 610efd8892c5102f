"""Response models of the audit routes."""

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
    """A concept set that an audit can start with."""

    name: str
    target: str | None
    """Class that the set declares."""
    logit: int | None
    """Logit of that class in this model, if the model has it."""
    saved: bool
    """Whether it consists of the lists of a saved audit."""
    valid: list[ListedConcept]
    spurious: list[ListedConcept]
    other_concepts: int
    """Number of concepts that are neither."""


class SavedAuditResponse(AuditRecord):
    """A saved audit: concept lists, settings and reviews."""

    persistent: bool
    """Whether edits are saved on disk."""
    stale: bool
    """Whether the database has changed since the audit was saved."""


class AuditEntry(BaseModel):
    """An entry in the list of saved audits."""

    id: int
    audit: SavedAuditResponse | None
    problem: str | None
    """Reason why it cannot be read."""


class SavedAuditsResponse(BaseModel):
    """All saved audits, most recently edited first, and the classes that can be audited."""

    audits: list[AuditEntry]
    classes: list[ClassCount]
    persistent: bool
    """Whether edits are saved on disk; false if the folder is read-only."""
    has_text: bool
    """Whether the embedder embeds texts."""


class ShareRow(BaseModel):
    """Share of a verdict in one layer or, last, in all layers; intervals are null if not drawn."""

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
    """Relevance claimed by a list, compared with random concept sets of the same size."""

    side: str
    layer: str
    share: float
    expected: float
    p_value: float


class ConceptRow(BaseModel):
    """Components whose best concept this is, and their relevance."""

    concept: str
    kind: str
    category: str
    components: int
    relevance: float
    contrast: float | None
    """Association with the class's relevance, beyond that of the other classes."""
    contrast_others: float | None
    """The largest contrast of another class."""
    p_value: float | None


class AuditedComponent(BaseModel):
    """A relevant component; fields of a list that is empty are null."""

    component: str
    layer: str
    mean: float
    max: float
    weight: float
    """Share of the relevance of all layers."""
    verdict: Verdict
    certainty: float | None
    valid: float | None
    valid_concept: str | None
    valid_threshold: float | None
    spurious: float | None
    spurious_concept: str | None
    spurious_threshold: float | None


class AuditResponse(BaseModel):
    """Result of an audit; most relevant components first."""

    sentence: str
    evidence: str
    """What the alarm, or its absence, is based on."""
    alarm: bool
    p_value: float | None
    suspect: str | None
    """Spurious concept with the least p-value; null if there are too few classes to compare."""
    level: float
    shares: list[ShareRow]
    null_shares: list[NullShareRow]
    concepts: list[ConceptRow]
    components: list[AuditedComponent]


class SweepClass(BaseModel):
    """Verdicts on the components of a class, as shares of its relevance."""

    target: int
    name: str
    audit: int | None
    """Saved audit whose lists were used."""
    sets: list[str]
    """Concept sets that were used otherwise."""
    components: int
    valid: float
    both: float
    spurious: float
    unexpected: float
    alarm: bool
    p_value: float | None
    q_value: float | None
    """Expected share of false alarms among the classes with this p-value or a smaller one."""
    suspect: str | None
    """Spurious concept with the least p-value."""
    concept: str | None
    """Spurious concept with the largest share."""
    concept_share: float | None


class SweepResponse(BaseModel):
    """One audit per class; smallest p-value first."""

    classes: list[SweepClass]
    skipped: dict[str, str]
    """Reason why a class with concepts was skipped, by name."""
    without_concepts: int
    """Number of classes with relevance but without a concept set."""
    sets: list[str]
    """Concept sets that were used."""


def set_info(
    db: ConceptDatabase, concepts: ConceptSet, name: str, *, saved: bool = False
) -> ConceptSetInfo:
    """Describe a concept set and the class of the model that it is for."""
    valid, spurious = (
        [_without_folders(ListedConcept.of(c)) for c in concepts.of_kind(kind).concepts]
        for kind in SIDES
    )
    return ConceptSetInfo(
        name=name,
        target=concepts.target,
        logit=class_of(db, concepts),
        saved=saved,
        valid=valid,
        spurious=spurious,
        other_concepts=len(concepts) - len(valid) - len(spurious),
    )


def saved_audit_response(db: ConceptDatabase, record: AuditRecord) -> SavedAuditResponse:
    """Return a saved audit as a response."""
    sides = {side: tuple(map(_without_folders, getattr(record, side))) for side in SIDES}
    state = {"persistent": db.audits.keeps, "stale": record.database != db.fingerprint}
    return SavedAuditResponse.model_validate({**dict(record), **sides, **state})


def _without_folders(concept: ListedConcept) -> ListedConcept:
    """Return a concept with the file names of its images only: the page must not see folders."""
    return concept.model_copy(update={"images": tuple(Path(p).name for p in concept.images)})


def audit_response(result: Audit) -> AuditResponse:
    """Return the result of an audit as a response."""
    return AuditResponse(
        sentence=result.sentence,
        evidence=result.evidence,
        alarm=result.alarm,
        p_value=plain(result.p_value),
        suspect=result.suspect,
        level=result.settings["level"],
        shares=records(ShareRow, result.shares),
        null_shares=records(NullShareRow, result.chance),
        concepts=records(ConceptRow, result.summary),
        components=records(AuditedComponent, result.frame.assign(weight=result.weights)),
    )
