"""The audit of all classes at a glance (paper, Fig. 3b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.analysis.audit.record import AuditRecord, check_lists
from semlens.analysis.audit.sweep import Sweep, audit_all, set_for
from semlens.analysis.concepts import ConceptSet, bundled_names, load_sets
from semlens.analysis.result import plain
from semlens.analysis.target import class_name, find_class
from semlens.api import ConceptDatabase
from semlens.errors import ConceptError, RelevanceError, SemlensError, nearest
from semlens.recipe import fingerprint
from semlens.web.routes.audit_requests import KEPT, Text, content_of
from semlens.web.served import All, Model

router = APIRouter(prefix="/models/{m}", tags=["audit"])

EVERYWHERE = "artefacts"
"""Of the bundled sets, the one for classes whose own sets name nothing spurious."""


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


@dataclass(frozen=True)
class _Held:
    """What a class is held against, and where that is from."""

    concepts: ConceptSet
    sets: tuple[str, ...] = ()
    audit: int | None = None


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
    known = sorted(int(number) for number in db.relevance_classes["class"])
    held, skipped = _named(db, sets, known) if sets else _fitting(db, known)
    if not held:
        raise ConceptError(
            "No concept set is for a class of the database.",
            f"It has relevance for {len(known)} classes.",
            "Begin an audit with lists of your own.",
        )
    key = fingerprint(
        [[number, content_of(one.concepts)] for number, one in held.items()], db.fingerprint
    )
    found = serving.work.result(
        f"sweep/{served.number}/{key}",
        f"auditing {len(held)} classes",
        lambda: audit_all(db, [one.concepts for one in held.values()]),
    )
    return _answer(found, held, skipped, len(set(known) - set(held)))


def _fitting(db: ConceptDatabase, known: Sequence[int]) -> tuple[dict[int, _Held], dict[str, str]]:
    """Return what fits each class: its saved lists, or the bundled sets for it."""
    saved = _saved(db)
    everywhere = ConceptSet.load(EVERYWHERE) if EVERYWHERE in bundled_names() else None
    bundled: dict[int, list[tuple[str, ConceptSet]]] = {}
    for name, one in _bundled():
        number = _logit(db, one.target or "")
        if number is not None:  # not a set for another model
            bundled.setdefault(number, []).append((name, one))
    if everywhere is not None and not (saved.keys() | bundled.keys()) & set(known):
        bundled = {number: [] for number in known}
    held: dict[int, _Held] = {}
    skipped: dict[str, str] = {}
    for number in known:
        mine = bundled.get(number)
        if number in saved:
            record = saved[number]
            held[number] = _Held(_only(db, number, [record.concepts]), audit=record.id)
        elif mine is not None:
            if everywhere is not None and not any(len(one.of_kind("spurious")) for _, one in mine):
                mine = [*mine, (EVERYWHERE, everywhere)]
            try:
                concepts = _only(db, number, [one for _, one in mine])
                check_lists(concepts)
            except ConceptError as error:  # sets that contradict each other
                skipped[class_name(db, number)] = error.value
                continue
            held[number] = _Held(concepts, tuple(name for name, _ in mine))
    return held, skipped


@cache
def _bundled() -> tuple[tuple[str, ConceptSet], ...]:
    """Return the bundled sets that are for a class and have sides; read once, for all polls."""
    sets = [(name, ConceptSet.load(name)) for name in bundled_names()]
    return tuple(
        (name, one)
        for name, one in sets
        if one.target is not None and any(c.kind in ("valid", "spurious") for c in one.concepts)
    )


def _named(
    db: ConceptDatabase, names: Sequence[str], known: Sequence[int]
) -> tuple[dict[int, _Held], dict[str, str]]:
    """Return the named sets by class: a set without one is for every class, if all are."""
    given: list[tuple[str, ConceptSet]] = []
    for name in names:
        given += [(name, one) for one in _load(db, name)]
    sets = [one for _, one in given]
    held: dict[int, _Held] = {}
    skipped: dict[str, str] = {}
    wanted: set[int] = set()
    for one in sets:
        if one.target is not None:
            try:
                wanted.add(find_class(db, one.target))
            except RelevanceError as error:
                skipped[one.target] = error.value
    for number in known if all(one.target is None for one in sets) else sorted(wanted):
        concepts = _only(db, number, [set_for(db, number, sets)])
        check_lists(concepts)
        fits = [
            name for name, one in given if one.target is None or _logit(db, one.target) == number
        ]
        held[number] = _Held(concepts, tuple(dict.fromkeys(fits)))
    return held, skipped


def _load(db: ConceptDatabase, name: str) -> list[ConceptSet]:
    """Return a bundled set or family, or a saved audit's; never a file."""
    number = name.removeprefix(KEPT)
    if name.startswith(KEPT) and number.isdecimal():
        return [db.audits.get(int(number)).concepts]
    known = bundled_names()
    if name in known or any(one.startswith(f"{name}/") for one in known):
        return load_sets(name)
    raise ConceptError(
        f"There is no concept set '{name}'.",
        f"The nearest ones are {nearest(name, known)}.",
        "Choose one of them.",
    )


def _saved(db: ConceptDatabase) -> dict[int, AuditRecord]:
    """Return the audit of each class that was edited last, of those with lists."""
    found: dict[int, AuditRecord] = {}
    for number in db.audits.numbers():
        try:
            one = db.audits.get(number)
        except SemlensError:
            continue  # the list of audits says why
        before = found.get(one.target)
        if len(one.concepts) and (before is None or one.changed >= before.changed):
            found[one.target] = one
    return found


def _only(db: ConceptDatabase, number: int, sets: Sequence[ConceptSet]) -> ConceptSet:
    """Join sets for one class, which is given by number where names are not unique."""
    name = class_name(db, number)
    target = name if _logit(db, name) == number else str(number)
    return replace(ConceptSet.join([replace(one, target=None) for one in sets]), target=target)


def _logit(db: ConceptDatabase, target: str) -> int | None:
    try:
        return find_class(db, target)
    except RelevanceError:
        return None


def _answer(
    found: Sweep, held: dict[int, _Held], skipped: dict[str, str], unlisted: int
) -> SweepAnswer:
    classes: list[SweepClass] = []
    for record, one in zip(
        plain(found.frame.to_dict("records")), found.audits.values(), strict=True
    ):
        source = held[one.target]
        name = record.pop("class")
        classes.append(
            SweepClass(
                target=one.target, name=name, audit=source.audit, sets=list(source.sets), **record
            )
        )
    # what nothing was said against comes last
    classes.sort(key=lambda one: (2.0 if one.p_value is None else one.p_value, -one.spurious))
    reasons = {**skipped, **found.skipped}
    return SweepAnswer(
        classes=classes,
        skipped=[SweepSkipped(name=name, reason=reason) for name, reason in reasons.items()],
        unlisted=unlisted,
        sets=sorted(
            {name for one in held.values() for name in one.sets}
            | {f"{KEPT}{one.audit}" for one in held.values() if one.audit is not None}
        ),
    )
