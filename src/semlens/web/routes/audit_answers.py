"""What the audit page is answered: saved audits, and what they find."""

from __future__ import annotations

from pydantic import BaseModel

from semlens.analysis.audit.found import Audit
from semlens.analysis.audit.record import AuditRecord, Status, Term
from semlens.analysis.audit.shares import Verdict
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.result import plain
from semlens.analysis.target import find_class
from semlens.api import ConceptDatabase
from semlens.errors import RelevanceError
from semlens.web.routes.audit_requests import AuditSettings
from semlens.web.served import records


class AuditEntry(BaseModel):
    """A saved audit in the list of all."""

    id: int
    name: str
    target: int = -1
    target_name: str = ""
    valid: int = 0
    spurious: int = 0
    reviewed: int = 0
    changed: str = ""
    problem: str | None = None
    """Why it cannot be read."""


class AuditClass(BaseModel):
    """A class that can be audited."""

    target: int
    name: str
    samples: int


class SavedAudits(BaseModel):
    """All saved audits, latest edit first, and the classes that can be audited."""

    audits: list[AuditEntry]
    classes: list[AuditClass]
    kept: bool
    """Whether edits outlive the server: not in a folder that is for reading only."""
    text: bool
    """Whether the embedder reads texts."""


class SavedTerm(BaseModel):
    """A concept of a list."""

    text: str
    path: list[str]
    """Its categories, outermost first."""
    pictures: int
    """How many images it is, if it is no text; such a concept can be moved and removed."""


class ConceptSetInfo(BaseModel):
    """A concept set that an audit can begin with."""

    name: str
    target: str | None
    """The class that it is for, as it says itself."""
    logit: int | None
    """That class in this model, if it has it."""
    kept: bool
    """Whether it is the lists of a saved audit."""
    valid: list[SavedTerm]
    spurious: list[SavedTerm]
    others: int
    """Concepts that are neither."""


class SavedReview(BaseModel):
    """What a person says of a component."""

    status: Status
    note: str
    when: str


class SavedAudit(BaseModel):
    """A saved audit: what people edit of it."""

    id: int
    revision: int
    name: str
    target: int
    target_name: str
    valid: list[SavedTerm]
    spurious: list[SavedTerm]
    sources: list[str]
    settings: AuditSettings
    reviews: dict[str, SavedReview]
    """By the component's name."""
    created: str
    changed: str
    kept: bool
    """Whether edits outlive the server."""
    stale: bool
    """Whether the database has changed since it was made."""


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


class ChanceRow(BaseModel):
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


class AuditAnswer(BaseModel):
    """What an audit finds; components most relevant first."""

    sentence: str
    alarm: bool
    p_value: float | None
    level: float
    shares: list[ShareRow]
    chance: list[ChanceRow]
    concepts: list[ConceptRow]
    components: list[AuditedComponent]


def set_info(
    db: ConceptDatabase, concepts: ConceptSet, name: str, *, kept: bool = False
) -> ConceptSetInfo:
    """Describe a concept set, and say which class of the model it is for."""
    logit = None
    if concepts.target is not None:
        try:
            logit = find_class(db, concepts.target)
        except RelevanceError:
            logit = None  # a set for another model
    valid, spurious = (
        [_term(Term.of(one)) for one in concepts.of_kind(kind).concepts]
        for kind in ("valid", "spurious")
    )
    return ConceptSetInfo(
        name=name,
        target=concepts.target,
        logit=logit,
        kept=kept,
        valid=valid,
        spurious=spurious,
        others=len(concepts) - len(valid) - len(spurious),
    )


def entry_of(record: AuditRecord) -> AuditEntry:
    """Return a saved audit's line in the list."""
    return AuditEntry(
        id=record.id,
        name=record.name,
        target=record.target,
        target_name=record.target_name,
        valid=len(record.valid),
        spurious=len(record.spurious),
        reviewed=len(record.reviews),
        changed=record.changed,
    )


def saved_of(db: ConceptDatabase, record: AuditRecord) -> SavedAudit:
    """Return what people edit of a saved audit."""
    used = record.settings
    return SavedAudit(
        **record.model_dump(
            include={"id", "revision", "name", "target", "target_name", "created", "changed"}
        ),
        valid=[_term(one) for one in record.valid],
        spurious=[_term(one) for one in record.spurious],
        sources=list(record.sources),
        settings=AuditSettings(
            layers=None if used.layers is None else list(used.layers),
            minimum=used.minimum,
            level=used.level,
            valid_threshold=used.threshold[0],
            spurious_threshold=used.threshold[1],
            seed=used.seed,
        ),
        reviews={name: SavedReview(**dict(one)) for name, one in record.reviews.items()},
        kept=db.audits.keeps,
        stale=record.database != db.fingerprint,
    )


def _term(term: Term) -> SavedTerm:
    return SavedTerm(text=term.text, path=list(term.path), pictures=len(term.images))


def answer_of(found: Audit) -> AuditAnswer:
    """Return an audit as the page takes it."""
    return AuditAnswer(
        sentence=found.sentence,
        alarm=found.alarm,
        p_value=plain(found.p_value),
        level=found.settings["level"],
        shares=records(ShareRow, found.shares),
        chance=records(ChanceRow, found.chance),
        concepts=records(ConceptRow, found.summary),
        components=records(AuditedComponent, found.frame.assign(weight=found.weights)),
    )
