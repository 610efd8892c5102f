"""Routes of audits: saved audits and their results, and the audit of all classes."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

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
from semlens.analysis.contrast.contrast import Contrast
from semlens.analysis.report.report import report
from semlens.analysis.resolve_concepts import SAVED, concepts_by_class
from semlens.analysis.result import plain
from semlens.analysis.swap.border_swap import BorderSwap
from semlens.errors import SemlensError
from semlens.recipe import fingerprint
from semlens.web.app_state import AppState, Context, ModelContext, State, records
from semlens.web.errors import not_found
from semlens.web.responses import csv, download
from semlens.web.routes.audit_requests import AuditEdit, ConceptSetFile, NewAudit, Text, cache_key
from semlens.web.routes.audit_responses import (
    AuditEntry,
    AuditResponse,
    ConceptSetInfo,
    SavedAuditResponse,
    SavedAuditsResponse,
    SweepClass,
    SweepResponse,
    audit_response,
    saved_audit_response,
    set_info,
)
from semlens.web.routes.classes import ClassCount
from semlens.web.routes.image_experiments import border_swap_key, contrast_key

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
    record = context.db.audits.add(
        request.target,
        request.concepts(context.db),
        name=request.name,
        sources=list(dict.fromkeys(concepts.name for concepts in request.sets(context.db))),
        settings=request.settings,
    )
    return saved_audit_response(context.db, record)


@router.post("/audits/preview")
def preview_audit(context: Context, state: State, request: NewAudit) -> AuditResponse:
    """Run an audit without saving it."""
    number = find_class(context.db, request.target)
    concepts, settings = request.concepts(context.db), request.settings
    check_lists(concepts)
    inputs = (cache_key(concepts), settings.model_dump(mode="json"))
    key = fingerprint(number, inputs, context.db.fingerprint)
    result = state.jobs.result(
        f"audit/{context.number}/preview/{key}",
        f"Auditing '{class_name(context.db, number)}'",
        lambda: audit(context.db, number, concepts, **settings.as_arguments()),
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
    return audit_response(_run(context, state, get_audit(context, number)))


@router.get("/audits/{number}/components.csv", response_class=Response)
def audit_csv(context: Context, state: State, number: int) -> Response:
    """Return the relevant components with verdicts, alignments and reviews as CSV."""
    record = get_audit(context, number)
    frame = _run(context, state, record).to_pandas()
    reviews = [record.reviews.get(name) for name in frame["component"]]
    frame = frame.assign(
        review=pd.Series([review.status if review else None for review in reviews], dtype=object),
        note=pd.Series([review.note if review else None for review in reviews], dtype=object),
    )
    return download(csv(frame), "text/csv", f"{_file_stem(record)}.csv")


@router.get("/audits/{number}/concepts.toml", response_class=Response)
def audit_concepts(context: Context, number: int) -> Response:
    """Return both lists as a concept set in TOML, for ``--concepts``."""
    record = get_audit(context, number)
    return download(to_toml(record.concepts), "application/toml", f"{_file_stem(record)}.toml")


@router.get("/audits/{number}/report.html", response_class=Response)
def audit_report(context: Context, state: State, number: int) -> Response:
    """Return the report on the class as one HTML file, with the reviews."""
    record = get_audit(context, number)
    result = _run(context, state, record)
    today = datetime.date.today()
    test = context.model_tests.get(record.target)
    borders, contrast = _experiments(context, state, record.target)

    def compute() -> str:
        with context.lock:
            return report(
                context.db, saved=record, audit=result, model_test=test, border_swap=borders,
                contrast=contrast, date=today,
            ).html  # fmt: skip

    key = fingerprint(
        record.model_dump(mode="json"),
        context.db.fingerprint,
        str(today),
        test and plain(test.to_json()),
        isinstance(borders, BorderSwap) and sorted(set(borders.frame["class"])),
        isinstance(contrast, Contrast),
    )
    description = f"Writing the report on '{record.target_name}'"
    html = state.jobs.result(f"report/{context.number}/{key}", description, compute, large=True)
    return download(html, "text/html", f"{_file_stem(record)}.html")


@router.get("/sweep")
def sweep(
    context: Context,
    state: State,
    sets: Annotated[list[Text] | None, Query(max_length=200)] = None,
) -> SweepResponse:
    """Audit every class that has concepts.

    Without ``sets``, each class is audited with the lists of its most recently edited saved
    audit; if there is none, with the bundled sets for it, and with the set ``artefacts`` if
    those contain no spurious concepts.
    """
    db = context.db
    by_class, skipped = concepts_by_class(db, sets, files=False)
    key = fingerprint(
        [[number, cache_key(source.concepts)] for number, source in by_class.items()],
        db.fingerprint,
    )
    result = state.jobs.result(
        f"sweep/{context.number}/{key}",
        f"Auditing {len(by_class)} classes",
        lambda: audit_all(db, [source.concepts for source in by_class.values()]),
    )
    sources = [by_class[audit.target] for audit in result.audits.values()]
    table = result.frame.rename(columns={"class": "name"}).assign(
        target=[audit.target for audit in result.audits.values()],
        audit=pd.Series([source.audit for source in sources], dtype=object),
        sets=[() if source.audit is not None else source.sets for source in sources],
    )
    # classes without spurious concepts have no p-value and come last
    table = table.sort_values(["p_value", "spurious"], ascending=[True, False], kind="stable")
    return SweepResponse(
        classes=records(SweepClass, table),
        skipped={**{name: error.value for name, error in skipped.items()}, **result.skipped},
        without_concepts=len(set(db.relevance_classes["class"]) - set(by_class)),
        sets=sorted({name for source in by_class.values() for name in source.sets}),
    )


def get_audit(context: ModelContext, number: int) -> AuditRecord:
    """Return a saved audit of the database."""
    audits = context.db.audits
    if number not in audits.numbers():
        saved = ", ".join(map(str, audits.numbers())) or "none"
        raise not_found(f"Unknown audit {number}.", f"Saved audits of this database: {saved}.")
    return audits.get(number)


def _run(context: ModelContext, state: AppState, record: AuditRecord) -> Audit:
    """Run a saved audit; edits that do not affect the result reuse it."""
    inputs = record.model_dump(
        mode="json", include={"target", "target_name", "valid", "spurious", "templates", "settings"}
    )
    return state.jobs.result(
        f"audit/{context.number}/{fingerprint(inputs, context.db.fingerprint)}",
        f"Auditing '{record.target_name}'",
        lambda: context.db.audits.run(record),
    )


def _experiments(
    context: ModelContext, state: AppState, target: int
) -> tuple[BorderSwap | Literal[False], Contrast | Literal[False]]:
    """Return the border swap and the contrast of a class that were run on the page, if any."""
    swaps = [state.jobs.finished(border_swap_key(context, key)) for key in (None, target)]
    borders = next((swap for swap in swaps if isinstance(swap, BorderSwap)), None)
    contrast = state.jobs.finished(contrast_key(context, target))
    return borders or False, contrast if isinstance(contrast, Contrast) else False


def _entry(context: ModelContext, number: int) -> AuditEntry:
    try:
        audit = saved_audit_response(context.db, context.db.audits.get(number))
        return AuditEntry(id=number, audit=audit, problem=None)
    except SemlensError as error:
        return AuditEntry(id=number, audit=None, problem=str(error))


def _file_stem(record: AuditRecord) -> str:
    """Return a short file name without extension."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", record.name).strip("-").lower()
    return f"audit-{record.id}-{name}".rstrip("-")
