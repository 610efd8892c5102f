"""Routes of the verdicts on all classes, which every page shows; they are kept in the database."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pandas as pd
from fastapi import APIRouter
from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
from semlens.documents import parse_json
from semlens.errors import SemlensError, StoreError
from semlens.lenses.audit.audit_records import AuditRecord
from semlens.lenses.audit.audit_result import Audit, verdict_keys
from semlens.lenses.audit.relevance_shares import Verdict
from semlens.lenses.audit.saved_audits import reviews_of, with_reviews
from semlens.lenses.audit.verdicts import Verdicts, kept_verdicts
from semlens.lenses.class_relevance import mean_shares
from semlens.lenses.classes import class_name
from semlens.lenses.resolve_concepts import ResolvedConcepts, concepts_by_class
from semlens.lenses.swap.kept import edition
from semlens.recipe import fingerprint
from semlens.types import Component
from semlens.web.app_state import AppState, Context, ModelContext, State, records
from semlens.web.jobs import JobPending
from semlens.web.routes.audit_responses import StandingResponse, standing_response
from semlens.web.routes.audits import get_audit, run_audit
from semlens.web.routes.classes import class_samples
from semlens.wording import CURLY

router = APIRouter(prefix="/models/{m}", tags=["audit"])

STRONGEST = 6
"""Spurious components that the audit of all classes names for each class."""


class ComponentVerdict(BaseModel):
    """The verdict on a component that is relevant for a class."""

    component: str
    verdict: Verdict
    concept: str | None
    """Best concept of the verdict's list, of both lists joined by a slash; null if unexpected."""
    mean: float
    """Mean share of its layer's relevance for the class, as on every page."""
    marked: bool
    """Whether a person has marked it as spurious."""
    audited: Verdict | None
    """The verdict by the lists; null if it is marked but not relevant for the class."""


class VerdictsResponse(BaseModel):
    """The verdicts on the components of a class, most relevant first."""

    target: int
    name: str
    standing: StandingResponse | None
    reason: str | None
    """Why the class could not be audited."""
    audit: int | None
    """Saved audit whose lists and settings were used."""
    components: list[ComponentVerdict]


class SweepClass(BaseModel):
    """Verdicts on the components of a class, as shares of its relevance."""

    target: int
    name: str
    standing: StandingResponse
    audit: int | None
    """Saved audit whose lists and settings were used."""
    sets: list[str]
    """Concept sets that were used otherwise."""
    components: int
    valid: float
    both: float
    spurious: float
    unexpected: float
    strongest: list[ComponentVerdict]
    """The most relevant spurious components."""
    repair: str | None
    """What the spurious components' artefact does to other images before and after their removal,
    if that was run and is kept."""


class SweepResponse(BaseModel):
    """One audit per class; smallest p-value first."""

    sentence: str
    classes: list[SweepClass]
    skipped: dict[str, str]
    """Reason why a class with concepts was skipped, by name."""
    without_concepts: int
    """Number of classes with relevance but without a concept set."""
    sets: list[str]
    """Concept sets that were used."""


class AuditSummary(BaseModel):
    """The standing of the class of a saved audit."""

    id: int
    standing: StandingResponse | None
    problem: str | None
    """Why the audit cannot be run."""


@router.get("/sweep")
def sweep(context: Context, state: State) -> SweepResponse:
    """Audit every class that has concepts.

    Each class is audited with the lists of its most recently edited saved audit; if there is
    none, with the bundled sets for it, and with the set ``artefacts`` if those contain no
    spurious concepts.
    """
    resolved, skipped = _resolved(context)
    result = _verdicts(context, state, resolved)
    classes = result.classes
    if len(classes):
        sources = [resolved[target] for target in classes["target"]]
        classes = classes.assign(
            standing=[standing_response(one) for one in result.standings],
            audit=pd.Series([source.audit for source in sources], dtype=object),
            sets=[() if source.audit is not None else source.sets for source in sources],
            strongest=[_strongest(context.db, result, target) for target in classes["target"]],
            repair=pd.Series(
                [
                    _kept_repair(context.db, target, result) if one.flagged else None
                    for target, one in result.by_class.items()
                ],
                dtype=object,
            ),
        )
    return SweepResponse(
        sentence=result.sentence(CURLY),
        classes=records(SweepClass, classes),
        skipped={**{name: error.value for name, error in skipped.items()}, **result.skipped},
        without_concepts=len(set(context.db.relevance_classes["class"]) - set(resolved)),
        sets=sorted({name for source in resolved.values() for name in source.sets}),
    )


@router.get("/verdicts/{target}")
def class_verdicts(context: Context, state: State, target: int) -> VerdictsResponse:
    """Return the verdicts on the components of a class."""
    class_samples(context, target)  # raises if the class has no relevance
    resolved, skipped = _resolved(context)
    name = class_name(context.db, target)
    result = _verdicts(context, state, resolved)
    found = result.standing(target)
    if found is None:
        reasons = {**{one: error.value for one, error in skipped.items()}, **result.skipped}
        reason = reasons.get(name, f"There are no lists of concepts for \u201c{name}\u201d.")
        return VerdictsResponse(
            target=target, name=name, standing=None, reason=reason, audit=None, components=[]
        )
    components = result.components.loc[result.components["target"] == target]
    return VerdictsResponse(
        target=target,
        name=name,
        standing=standing_response(found),
        reason=None,
        audit=resolved[target].audit,
        components=_component_verdicts(context.db, target, components),
    )


@router.get("/audits/{number}/standing")
def audit_standing(context: Context, state: State, number: int) -> StandingResponse:
    """Return the standing of a saved audit's class among all classes."""
    result = run_audit(context, state, get_audit(context, number))
    return standing_response(among_all(context, state, result).standing)


@router.get("/audit-summaries")
def audit_summaries(context: Context, state: State) -> list[AuditSummary]:
    """Return the standing of the class of each saved audit, among all classes."""
    records = context.db.audits.readable()
    inputs = [record.model_dump(mode="json", exclude={"reviews", "changed"}) for record in records]
    p_values = _p_values(context, state)
    key = fingerprint(inputs, list(p_values.items()), edition(context.db), context.db.fingerprint)
    return state.jobs.result(
        f"audit-summaries/{context.number}/{key}",
        f"Auditing {len(records)} saved lists",
        lambda: [_summary(context, record, p_values) for record in records],
    )


def _summary(
    context: ModelContext, record: AuditRecord, p_values: Mapping[int, float]
) -> AuditSummary:
    try:
        found = _among(context.db.audits.run(record, resamples=0), p_values).standing
    except SemlensError as error:
        return AuditSummary(id=record.id, standing=None, problem=error.value)
    return AuditSummary(id=record.id, standing=standing_response(found), problem=None)


def among_all(context: ModelContext, state: AppState, result: Audit) -> Audit:
    """Return an audit among those of all classes, which its standing is corrected for.

    Raises
    ------
    JobPending
        While classes are being audited.
    """
    return _among(result, _p_values(context, state))


def _among(result: Audit, p_values: Mapping[int, float]) -> Audit:
    """Return an audit among the others; its own lists may differ from those of all classes."""
    return replace(result, others=[p for one, p in p_values.items() if one != result.target])


def _p_values(context: ModelContext, state: AppState) -> dict[int, float]:
    """Return the p-values of the audit of all classes by logit; empty if there cannot be one."""
    try:
        return _verdicts(context, state, _resolved(context)[0]).p_values
    except SemlensError:
        return {}


def spurious_of_alarm(context: ModelContext, state: AppState, target: int) -> list[Component]:
    """Return what a repair of a class removes, most relevant first.

    These are the spurious components under an alarm or a suspicion, and the marked ones in any
    case; without those that a person has dismissed.
    """
    result = _verdicts(context, state, _resolved(context)[0])
    components, found = result.components, result.standing(target)
    if found is None:
        return []
    chosen = (components["target"] == target) & (components["verdict"] == "spurious")
    if not found.flagged:
        chosen &= components["marked"]
    reviews = reviews_of(context.db, target)
    dismissed = {name for name, review in reviews.items() if review.status == "dismissed"}
    names = [name for name in components.loc[chosen, "component"] if name not in dismissed]
    return [Component.parse(name) for name in names]


def prepare_verdicts(state: AppState) -> None:
    """Audit all classes of each database that has class relevance and an embedder of texts.

    Runs at low priority: nobody waits for it yet. Errors are raised when the result is requested.
    """
    for context in state.models:
        if context.db.manifest.relevance is None or not context.db.embedder.has_text:
            continue
        with suppress(SemlensError):
            resolved = _resolved(context)[0]
            key = _key(context, resolved)
            while True:
                try:
                    _audited(context, state, resolved, key, background=True)
                    break
                except JobPending:
                    continue  # each attempt waits for a while


def _resolved(context: ModelContext) -> tuple[dict[int, ResolvedConcepts], dict[str, SemlensError]]:
    return concepts_by_class(context.db, files=False)


def _verdicts(
    context: ModelContext, state: AppState, resolved: dict[int, ResolvedConcepts]
) -> Verdicts:
    """Return the verdicts, or raise JobPending while classes are being audited."""
    result = _audited(context, state, resolved, _key(context, resolved))
    return with_reviews(context.db, result)  # not a part of the job: marks change without it


def _key(context: ModelContext, resolved: dict[int, ResolvedConcepts]) -> str:
    """Return a text that determines the verdicts."""
    keys = [key for key, _ in verdict_keys(context.db, resolved).values()]
    return f"verdicts/{context.number}/{fingerprint([*keys, str(edition(context.db))])}"


def _audited(
    context: ModelContext,
    state: AppState,
    resolved: dict[int, ResolvedConcepts],
    key: str,
    background: bool = False,
) -> Verdicts:
    return state.jobs.result(
        key,
        f"Auditing {len(resolved)} classes",
        lambda: kept_verdicts(context.db, resolved),
        background=background,
    )


def _strongest(db: ConceptDatabase, result: Verdicts, target: int) -> list[ComponentVerdict]:
    of_class = result.components["target"] == target
    spurious = result.components.loc[of_class & (result.components["verdict"] == "spurious")]
    return _component_verdicts(db, target, spurious.head(STRONGEST))


def _component_verdicts(
    db: ConceptDatabase, target: int, components: pd.DataFrame
) -> list[ComponentVerdict]:
    rows = [db.row(Component.parse(name)) for name in components["component"]]
    return records(ComponentVerdict, components.assign(mean=mean_shares(db, target)[rows]))


def _kept_repair(db: ConceptDatabase, target: int, result: Verdicts) -> str | None:
    """Return what before and after found, if it is kept for the components that are spurious."""
    components = result.components
    chosen = (components["target"] == target) & (components["verdict"] == "spurious")
    with suppress(StoreError, ValueError, KeyError, TypeError, AttributeError):
        saved = db.load_with_origin(f"before-after-{target}")
        if saved is not None:
            response = parse_json(str(saved[0]["response"].iloc[0]))
            if set(response["components"]) == set(components.loc[chosen, "component"]):
                return " ".join(filter(None, [response["finding"], response.get("caution")]))
    return None
