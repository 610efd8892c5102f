"""Saved audits, which the page edits, what follows from them, and the audit of all classes."""

from __future__ import annotations

import datetime
import re
from typing import Annotated

import pandas as pd
from fastapi import APIRouter, Query, Response

from semlens.analysis.audit.audit import audit
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.concept_alignment import check_lists
from semlens.analysis.audit.saved_audits import AuditRecord
from semlens.analysis.audit.sweep import audit_all
from semlens.analysis.classes import class_name, find_class
from semlens.analysis.concept_file import parse_upload, to_toml
from semlens.analysis.concepts import ConceptSet, bundled_names
from semlens.analysis.report.report import report
from semlens.analysis.resolve_concepts import SAVED, concepts_by_class
from semlens.analysis.result import plain
from semlens.errors import SemlensError
from semlens.recipe import fingerprint
from semlens.web.app_state import All, AppState, Model, ModelContext, records
from semlens.web.errors import not_found
from semlens.web.responses import csv, download
from semlens.web.routes.audit_requests import AuditEdit, NewAudit, SetFile, Text, content_of
from semlens.web.routes.audit_responses import (
    AuditEntry,
    AuditResponse,
    ConceptSetInfo,
    SavedAuditResponse,
    SavedAuditsResponse,
    SweepClass,
    SweepResponse,
    answer_of,
    saved_of,
    set_info,
)
from semlens.web.routes.classes import ClassCount

router = APIRouter(prefix="/models/{m}", tags=["audit"])


@router.get("/concept-sets")
def concept_sets(served: Model) -> list[ConceptSetInfo]:
    """Return the concept sets that come with semlens, and the lists of saved audits."""
    db = served.db
    found = [set_info(db, ConceptSet.load(name), name) for name in bundled_names()]
    return found + [
        set_info(db, one.concepts, f"{SAVED}{one.id}", kept=True) for one in db.audits.readable()
    ]


@router.post("/concept-sets/read")
def read_concept_set(served: Model, given: SetFile) -> ConceptSetInfo:
    """Return what a concept set says that is handed in as a file; nothing is saved."""
    found = parse_upload(given.text, given.file)
    return set_info(served.db, found, found.name)


@router.get("/audits")
def list_audits(served: Model) -> SavedAuditsResponse:
    """Return the saved audits and the classes with relevance."""
    db = served.db
    known = db.relevance_classes.rename(columns={"class": "target"})
    known["name"] = [class_name(db, number) for number in known["target"]]
    entries = [_entry(served, number) for number in db.audits.numbers()]
    return SavedAuditsResponse(
        audits=sorted(
            entries, key=lambda one: (one.audit.changed if one.audit else "", one.id), reverse=True
        ),
        classes=records(ClassCount, known),
        kept=db.audits.keeps,
        text=db.embedder.has_text,
    )


@router.post("/audits", status_code=201)
def save_audit(served: Model, given: NewAudit) -> SavedAuditResponse:
    """Save a new audit."""
    made = served.db.audits.add(
        given.target,
        given.concepts(served.db),
        name=given.name,
        sources=list(dict.fromkeys(one.name for one in given.sets(served.db))),
        settings=given.settings,
    )
    return saved_of(served.db, made)


@router.post("/audits/preview")
def try_audit(served: Model, serving: All, given: NewAudit) -> AuditResponse:
    """Audit without saving anything."""
    number = find_class(served.db, given.target)
    concepts, settings = given.concepts(served.db), given.settings
    check_lists(concepts)
    decides = (content_of(concepts), settings.model_dump(mode="json"))
    key = fingerprint(number, decides, served.db.fingerprint)
    found = serving.work.result(
        f"audit/{served.number}/try/{key}",
        f"auditing '{class_name(served.db, number)}'",
        lambda: audit(served.db, number, concepts, **settings.as_arguments()),
    )
    return answer_of(found)


@router.get("/audits/{number}")
def one_audit(served: Model, number: int) -> SavedAuditResponse:
    """Return a saved audit: lists, settings, reviews."""
    return saved_of(served.db, _get(served, number))


@router.put("/audits/{number}")
def edit_audit(served: Model, number: int, given: AuditEdit) -> SavedAuditResponse:
    """Change a saved audit; 409 (``EditError``) if it has been edited since it was read."""
    edit = given.checked(_get(served, number))
    return saved_of(served.db, served.db.audits.edit(number, given.revision, edit))


@router.delete("/audits/{number}", status_code=204)
def remove_audit(served: Model, number: int, revision: Annotated[int, Query()]) -> None:
    """Remove a saved audit."""
    _get(served, number)
    served.db.audits.remove(number, revision)


@router.get("/audits/{number}/result")
def audit_result(served: Model, serving: All, number: int) -> AuditResponse:
    """Return what a saved audit finds, as it is now."""
    return answer_of(_run(served, serving, _get(served, number)))


@router.get("/audits/{number}/components.csv", response_class=Response)
def audit_csv(served: Model, serving: All, number: int) -> Response:
    """Return the relevant components with verdicts, alignments and reviews."""
    record = _get(served, number)
    frame = _run(served, serving, record).to_pandas()
    reviews = [record.reviews.get(name) for name in frame["component"]]
    frame = frame.assign(
        review=pd.Series([one.status if one else None for one in reviews], dtype=object),
        note=pd.Series([one.note if one else None for one in reviews], dtype=object),
    )
    return download(csv(frame), "text/csv", f"{_plain(record)}.csv")


@router.get("/audits/{number}/concepts.toml", response_class=Response)
def audit_concepts(served: Model, number: int) -> Response:
    """Return both lists as a concept set for ``--concepts``."""
    record = _get(served, number)
    return download(to_toml(record.concepts), "application/toml", f"{_plain(record)}.toml")


@router.get("/audits/{number}/report.html", response_class=Response)
def audit_report(served: Model, serving: All, number: int) -> Response:
    """Return all that is known of the class as one HTML file, with the reviews."""
    record = _get(served, number)
    found = _run(served, serving, record)
    today = datetime.date.today()

    test = served.tests.get(record.target)

    def make() -> str:
        with served.lock:
            made = report(served.db, saved=record, audit=found, model_test=test, date=today)
        return made.html

    key = fingerprint(
        record.model_dump(mode="json"),
        served.db.fingerprint,
        str(today),
        test and plain(test.to_json()),
    )
    what = f"writing the report on '{record.target_name}'"
    html = serving.work.result(f"report/{served.number}/{key}", what, make, large=True)
    return download(html, "text/html", f"{_plain(record)}.html")


@router.get("/sweep")
def sweep(
    served: Model,
    serving: All,
    sets: Annotated[list[Text] | None, Query(max_length=200)] = None,
) -> SweepResponse:
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
    return SweepResponse(
        classes=records(SweepClass, table),
        skipped={**{name: error.value for name, error in skipped.items()}, **found.skipped},
        unlisted=len(set(db.relevance_classes["class"]) - set(held)),
        sets=sorted({name for one in held.values() for name in one.sets}),
    )


def _get(served: ModelContext, number: int) -> AuditRecord:
    known = served.db.audits
    if number not in known.numbers():
        there = ", ".join(map(str, known.numbers())) or "none"
        raise not_found(f"There is no audit {number}.", f"Saved in this database: {there}.")
    return known.get(number)


def _run(served: ModelContext, serving: AppState, record: AuditRecord) -> Audit:
    """Compute a saved audit; what does not change the finding does not compute it again."""
    decides = record.model_dump(
        mode="json", include={"target", "target_name", "valid", "spurious", "templates", "settings"}
    )
    return serving.work.result(
        f"audit/{served.number}/{fingerprint(decides, served.db.fingerprint)}",
        f"auditing '{record.target_name}'",
        lambda: served.db.audits.run(record),
    )


def _entry(served: ModelContext, number: int) -> AuditEntry:
    try:
        found = saved_of(served.db, served.db.audits.get(number))
        return AuditEntry(id=number, audit=found, problem=None)
    except SemlensError as error:
        return AuditEntry(id=number, audit=None, problem=str(error))


def _plain(record: AuditRecord) -> str:
    """Return a short file name without its ending."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", record.name).strip("-").lower()
    return f"audit-{record.id}-{plain}".rstrip("-")
