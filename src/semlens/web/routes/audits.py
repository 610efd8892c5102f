"""Routes of audits: saved audits, their results, suspects, and what a person marks as spurious."""

from __future__ import annotations

import re
from typing import Annotated

import pandas as pd
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from semlens.concept_database import ConceptDatabase
from semlens.errors import SemlensError
from semlens.lenses.audit.audit import audit_class
from semlens.lenses.audit.audit_records import (
    AuditChanges,
    AuditRecord,
    AuditSettings,
    ListedConcept,
)
from semlens.lenses.audit.audit_result import Audit, list_key
from semlens.lenses.audit.concept_alignment import check_lists
from semlens.lenses.audit.saved_audits import (
    audit_of_reviews,
    review_as_spurious,
    reviewed_as_spurious,
)
from semlens.lenses.audit.suspects import LEVEL, suspects
from semlens.lenses.classes import class_name, find_class
from semlens.lenses.concept_file import parse_upload, to_toml
from semlens.lenses.concepts import ConceptSet, bundled_names
from semlens.lenses.resolve_concepts import SAVED, sets_for
from semlens.recipe import fingerprint
from semlens.settings import Items
from semlens.types import Component
from semlens.web.app_state import AppState, Context, ModelContext, State, records
from semlens.web.errors import not_found
from semlens.web.responses import RequestModel, WholeText, csv, download
from semlens.web.routes.audit_responses import (
    AuditEntry,
    AuditResponse,
    ConceptSetInfo,
    SavedAuditResponse,
    SavedAuditsResponse,
    audit_response,
    saved_audit_response,
    set_info,
)
from semlens.web.routes.classes import ClassCount, class_samples

Text = Annotated[str, Field(max_length=1000)]
Terms = Annotated[Items[ListedConcept], Field(max_length=5000)]


class NewAudit(RequestModel):
    """A new audit of a class, with concept sets, listed concepts, or both."""

    target: int | Text
    name: Text | None = None
    from_sets: list[Text] = Field(default=[], max_length=50)
    valid: Terms = ()
    spurious: Terms = ()
    settings: AuditSettings = AuditSettings()

    def read(self, db: ConceptDatabase) -> tuple[int, ConceptSet, list[str]]:
        """Return the class, its joined concepts, and the names of the concept sets among them.

        Raises
        ------
        RelevanceError
            If there is no such class.
        ConceptError
            If a concept set is unknown; file paths are refused.
        """
        target = find_class(db, self.target)
        sets = sets_for(db, self.from_sets, target, files=False)
        listed = [sanitized(concept).concept("valid") for concept in self.valid]
        listed += [sanitized(concept).concept("spurious") for concept in self.spurious]
        own = ConceptSet(tuple(listed), self.name or "your concepts")
        return target, ConceptSet.join([*sets, own]), list(dict.fromkeys(s.name for s in sets))


class AuditEdit(WholeText, AuditChanges):
    """Changes to revision ``revision`` of a saved audit; null leaves a field as it is."""

    model_config = ConfigDict(strict=True)

    revision: int
    valid: Terms | None = None
    spurious: Terms | None = None

    def sanitized(self, record: AuditRecord) -> AuditChanges:
        """Return the changes with normalized texts, and with the image paths of ``record``."""
        sides = {
            side: tuple(sanitized(concept, record) for concept in concepts)
            for side, concepts in (("valid", self.valid), ("spurious", self.spurious))
            if concepts is not None
        }
        reviews = {
            name: review and review.model_copy(update={"note": review.note.strip(), "when": ""})
            for name, review in self.reviews.items()
        }
        return self.model_copy(
            update={**sides, "reviews": reviews, "name": self.name and self.name.strip()}
        )


class ConceptSetFile(RequestModel):
    """A concept set as the content of a file; the extension gives the format."""

    filename: Text
    text: str


def sanitized(concept: ListedConcept, record: AuditRecord | None = None) -> ListedConcept:
    """Return a concept from the page; image paths are taken from the saved audit only."""
    if concept.images and record is not None:
        return record.image_concept(concept.text)
    return ListedConcept(text=" ".join(concept.text.split()), path=concept.path)


router = APIRouter(prefix="/models/{m}", tags=["audit"])


@router.get("/concept-sets")
def concept_sets(context: Context) -> list[ConceptSetInfo]:
    """Return the bundled concept sets and the lists of saved audits."""
    db = context.db
    bundled = [set_info(db, ConceptSet.load(name), name) for name in bundled_names()]
    return bundled + [
        set_info(db, record.concepts, f"{SAVED}{record.id}", saved=True)
        for record in db.audits.readable()
    ]


@router.post("/concept-sets/read")
def read_concept_set(context: Context, file: ConceptSetFile) -> ConceptSetInfo:
    """Parse an uploaded concept set; nothing is saved."""
    concepts = parse_upload(file.text, file.filename)
    return set_info(context.db, concepts, concepts.name)


@router.get("/audits")
def list_audits(context: Context) -> SavedAuditsResponse:
    """Return the saved audits, and the classes with relevance."""
    db = context.db
    classes = db.relevance_classes.rename(columns={"class": "target"})
    classes["name"] = [class_name(db, number) for number in classes["target"]]
    entries = [_entry(context, number) for number in db.audits.numbers()]
    return SavedAuditsResponse(
        audits=sorted(
            entries,
            key=lambda entry: (entry.audit.changed if entry.audit else "", entry.id),
            reverse=True,
        ),
        classes=records(ClassCount, classes),
        persistent=db.audits.keeps,
        has_text=db.embedder.has_text,
    )


@router.post("/audits", status_code=201)
def save_audit(context: Context, request: NewAudit) -> SavedAuditResponse:
    """Save a new audit."""
    target, concepts, sources = request.read(context.db)
    record = context.db.audits.add(
        target, concepts, name=request.name, sources=sources, settings=request.settings
    )
    return saved_audit_response(context.db, record)


@router.post("/audits/preview")
def preview_audit(context: Context, state: State, request: NewAudit) -> AuditResponse:
    """Run an audit without saving it."""
    number, concepts, _ = request.read(context.db)
    settings = request.settings
    check_lists(concepts)
    inputs = (list_key(concepts), settings.model_dump(mode="json"))
    key = fingerprint(number, inputs, context.db.fingerprint)
    result = state.jobs.result(
        f"audit/{context.number}/preview/{key}",
        f"Auditing '{class_name(context.db, number)}'",
        lambda: audit_class(context.db, number, concepts, settings),
    )
    return audit_response(result)


@router.get("/audits/{number}")
def saved_audit(context: Context, number: int) -> SavedAuditResponse:
    """Return a saved audit: concept lists, settings and reviews."""
    return saved_audit_response(context.db, get_audit(context, number))


@router.put("/audits/{number}")
def edit_audit(context: Context, number: int, request: AuditEdit) -> SavedAuditResponse:
    """Change a saved audit; 409 (``EditError``) if another edit came first."""
    changes = request.sanitized(get_audit(context, number))
    record = context.db.audits.edit(number, request.revision, changes)
    return saved_audit_response(context.db, record)


@router.delete("/audits/{number}", status_code=204)
def delete_audit(context: Context, number: int, revision: Annotated[int, Query()]) -> None:
    """Delete a saved audit."""
    get_audit(context, number)
    context.db.audits.remove(number, revision)


@router.get("/audits/{number}/result")
def audit_result(context: Context, state: State, number: int) -> AuditResponse:
    """Return the result of a saved audit in its current revision."""
    return audit_response(run_audit(context, state, get_audit(context, number)))


@router.get("/audits/{number}/components.csv", response_class=Response)
def audit_csv(context: Context, state: State, number: int) -> Response:
    """Return the relevant components with verdicts, alignments and reviews as CSV."""
    record = get_audit(context, number)
    frame = run_audit(context, state, record).to_pandas()
    reviews = [record.reviews.get(name) for name in frame["component"]]
    frame = frame.assign(
        review=pd.Series([review.status if review else None for review in reviews], dtype=object),
        note=pd.Series([review.note if review else None for review in reviews], dtype=object),
    )
    return download(csv(frame), "text/csv", f"{file_stem(record)}.csv")


@router.get("/audits/{number}/concepts.toml", response_class=Response)
def audit_concepts(context: Context, number: int) -> Response:
    """Return both lists as a concept set in TOML, for ``--concepts``."""
    record = get_audit(context, number)
    return download(to_toml(record.concepts), "application/toml", f"{file_stem(record)}.toml")


def get_audit(context: ModelContext, number: int) -> AuditRecord:
    """Return a saved audit of the database."""
    audits = context.db.audits
    if number not in audits.numbers():
        saved = ", ".join(map(str, audits.numbers())) or "none"
        raise not_found(f"Unknown audit {number}.", f"Saved audits of this database: {saved}.")
    return audits.get(number)


def run_audit(context: ModelContext, state: AppState, record: AuditRecord) -> Audit:
    """Run a saved audit; edits that do not affect the result reuse it."""
    inputs = record.model_dump(
        mode="json", include={"target", "target_name", "valid", "spurious", "templates", "settings"}
    )
    return state.jobs.result(
        f"audit/{context.number}/{fingerprint(inputs, context.db.fingerprint)}",
        f"Auditing '{record.target_name}'",
        lambda: context.db.audits.run(record),
    )


def _entry(context: ModelContext, number: int) -> AuditEntry:
    try:
        audit = saved_audit_response(context.db, context.db.audits.get(number))
        return AuditEntry(id=number, audit=audit, problem=None)
    except SemlensError as error:
        return AuditEntry(id=number, audit=None, problem=str(error))


def file_stem(record: AuditRecord) -> str:
    """Return a short file name without extension."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", record.name).strip("-").lower()
    return f"audit-{record.id}-{name}".rstrip("-")


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


@router.get("/marks/{target}")
def marks(context: Context, target: int) -> Marks:
    """Return the components that a person has marked as spurious for a class."""
    class_samples(context, target)  # raises if the class has no relevance
    return _marks(context, target, audit_of_reviews(context.db, target))


@router.put("/marks/{target}")
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
