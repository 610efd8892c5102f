"""Response models of the audit routes."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
from semlens.lenses.audit.audit import SIDES
from semlens.lenses.audit.audit_records import AuditRecord, ListedConcept
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.audit_rows import ComponentRow, ConceptRow, NullShareRow, ShareRow
from semlens.lenses.audit.class_verdict import ClassVerdict, Kind
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.resolve_concepts import class_of
from semlens.lenses.result import plain
from semlens.web.app_state import records
from semlens.web.routes.classes import ClassCount
from semlens.wording import CURLY


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


class AuditedComponent(ComponentRow):
    """A relevant component; fields of a list that is empty are null."""

    weight: float
    """Share of the relevance of all layers."""


class StandingResponse(BaseModel):
    """The standing of a class: alarm, suspicion or no alarm, in the words of every page."""

    kind: Kind
    word: str
    headline: str
    """What the class relies on, in a few words that follow its name."""
    sentence: str
    """What was tested and found, with the p-value and the q-value."""
    shares: str
    """How much of the class's relevance matches spurious concepts."""
    numbers: str
    """The p-value and the q-value, as text."""
    p_value: float | None
    """Of this class alone."""
    q_value: float | None
    """Corrected over all classes tested; null if it was tested alone."""
    tested: int
    """Number of classes that were tested together."""
    suspect: str | None
    """Spurious concept with the smallest p-value."""
    share: float
    """Share of the relevance of all layers that matches spurious concepts."""
    concept: str | None
    """Spurious concept with the largest share."""
    concept_share: float | None


class AuditResponse(BaseModel):
    """Result of an audit; most relevant components first. The verdict is its standing."""

    p_value: float | None
    suspect: str | None
    """Spurious concept with the least p-value; null if there are too few classes to compare."""
    level: float
    shares: list[ShareRow]
    null_shares: list[NullShareRow]
    concepts: list[ConceptRow]
    components: list[AuditedComponent]


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
        p_value=plain(result.p_value),
        suspect=result.suspect,
        level=result.settings["level"],
        shares=records(ShareRow, result.shares),
        null_shares=records(NullShareRow, result.chance),
        concepts=records(ConceptRow, result.summary),
        components=records(AuditedComponent, result.to_pandas().assign(weight=result.weights)),
    )


def standing_response(standing: ClassVerdict) -> StandingResponse:
    """Return a standing as a response, with the page's quotes."""
    values = {name: getattr(standing, name) for name in _STANDING}
    texts = {name: getattr(standing, name)(CURLY) for name in ("headline", "sentence", "shares")}
    return StandingResponse.model_validate(plain({**values, **texts}))


_STANDING = (
    "kind", "word", "numbers", "p_value", "q_value", "tested", "suspect", "share", "concept",
    "concept_share",
)  # fmt: skip
