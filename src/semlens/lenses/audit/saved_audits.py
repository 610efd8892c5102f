"""Components that a person has marked as spurious for a class, whatever the audit says.

A mark is a review of a saved audit (:class:`semlens.lenses.audit.saved_audits.Review`), so that
the audit's report and table show it with its note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from semlens.errors import SemlensError
from semlens.lenses.audit.audit import RESAMPLES, audit_class
from semlens.lenses.audit.audit_records import (
    AuditChanges,
    AuditRecord,
    AuditRecords,
    AuditSettings,
    ListedConcept,
    Review,
    read_record,
    utc_now,
)
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.verdicts import Verdicts
from semlens.lenses.classes import class_name, find_class
from semlens.lenses.concepts import Concepts, ConceptSet
from semlens.lenses.resolve_concepts import class_and_concepts, concepts_by_class
from semlens.store.json_documents import Document
from semlens.store.reader import Database
from semlens.types import Component
from semlens.version import __version__


class SavedAudits(AuditRecords):
    """The saved audits of a database (``db.audits``).

    They are numbered from 1 and stored in ``analysis/audits``. If the database's folder is
    read-only, ``keeps`` is False and saved audits last as long as this object.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.open("demo.semlens")                                   # doctest: +SKIP
    >>> record = db.audits.add("ox", "paper-ox")                       # doctest: +SKIP
    >>> db.audits.run(record.id).share("spurious")                     # doctest: +SKIP
    """

    def add(
        self,
        target: int | str,
        concepts: Concepts,
        *,
        name: str | None = None,
        sources: Sequence[str] = (),
        settings: AuditSettings | None = None,
    ) -> AuditRecord:
        """Save a new audit; its lists may still be empty.

        Raises
        ------
        RelevanceError
            If there is no such class.
        ConceptError
            If a concept is on both sides, or the lists are too long.
        """
        class_index, concept_set = class_and_concepts(
            self.database, find_class(self.database, target), concepts
        )
        target_name, when = class_name(self.database, class_index), utc_now()
        sides = {
            kind: [ListedConcept.of(c).model_dump() for c in concept_set.of_kind(kind).concepts]
            for kind in ("valid", "spurious")
        }
        content: Document = {
            "name": name or target_name,
            "target": class_index,
            "target_name": target_name,
            **sides,
            "templates": concept_set.templates,
            "sources": list(sources or [concept_set.name] if len(concept_set) else []),
            "settings": (settings or AuditSettings()).model_dump(),
            "reviews": {},
            "created": when,
            "changed": when,
            "database": self.database.fingerprint,
            "version": __version__,
        }
        self._check(read_record({"id": 1, "revision": 1, **content}))
        return read_record(self._documents.add(content))

    def run(self, saved: int | AuditRecord, *, resamples: int = RESAMPLES) -> Audit:
        """Run a saved audit; ``resamples`` as for :func:`audit`.

        Raises
        ------
        StaleError
            If the class has a different name in the current database.
        SemlensError
            As :func:`audit`, for example if both lists are empty.
        """
        record = saved if isinstance(saved, AuditRecord) else self.get(saved)
        self.check_class(record)
        concepts = replace(record.concepts, target=None)
        return audit_class(
            self.database, record.target, concepts, record.settings, resamples=resamples
        )


def saved_audits(database: Database) -> SavedAudits:
    """Return the saved audits of a database, including unwritten ones of an open ``db.audits``."""
    audits = getattr(database, "audits", None)
    return audits if isinstance(audits, SavedAudits) else SavedAudits(database)


def reviews_of(database: Database, target: int) -> dict[str, Review]:
    """Return the latest review of each component in any saved audit of a class."""
    latest: dict[str, Review] = {}
    for record in _audits(saved_audits(database), target):
        for name, review in record.reviews.items():
            if name not in latest or review.when >= latest[name].when:
                latest[name] = review
    return latest


def reviewed_as_spurious(database: Database, target: int) -> list[str]:
    """Return the names of the components that a person has marked as spurious for a class."""
    reviews = reviews_of(database, target)
    return [name for name, review in reviews.items() if review.status == "spurious"]


def audit_of_reviews(database: Database, target: int) -> int | None:
    """Return the number of the saved audit of a class that holds its marks; None without marks."""
    records = _audits(saved_audits(database), target)
    holding = [r.id for r in records if any(_is_marked(r, name) for name in r.reviews)]
    return holding[-1] if holding else None


def review_as_spurious(
    database: Database, target: int, components: Sequence[Component | str], on: bool = True
) -> AuditRecord | None:
    """Mark components as spurious for a class, or take the marks back.

    Marks are saved in the class's most recently edited audit with concepts; without one, an audit
    with the concepts that the class is audited with by default is saved. Notes are kept.

    Returns
    -------
    AuditRecord or None
        The audit that was changed last; None if there was no mark to take back.

    Raises
    ------
    LayerError
        If the database has no such component.
    StoreError
        If the audits cannot be written.
    """
    audits = saved_audits(database)
    names = database.names(np.array(database.rows_of(components), np.int64))
    exists = bool(_audits(audits, target))
    if not exists and not on:
        return None
    # its concepts are looked up first, so that others wait for milliseconds only
    concepts = None if exists else _default_concepts(database, target)
    with audits.writing():
        records = _audits(audits, target)
        if on:
            if not records:
                concept_set, sources = concepts or (ConceptSet((), "marks"), ())
                records = [audits.add(target, concept_set, sources=sources)]
            return _saved(audits, records[-1], names, on)
        marked = [record for record in records if any(_is_marked(record, name) for name in names)]
        return [_saved(audits, record, names, on) for record in marked][-1] if marked else None


def with_reviews(database: Database, verdicts: Verdicts) -> Verdicts:
    """Return verdicts in which the marked components are spurious.

    The columns ``marked`` and ``audited``, the verdict by the lists, are added to ``components``. A
    marked component that is not relevant for its class is appended, with weight 0. The shares and
    p-values of ``classes`` remain those of the lists.
    """
    components = verdicts.components
    if components.empty:
        return verdicts
    components = components.assign(marked=False, audited=components["verdict"])
    for target in verdicts.classes["target"].tolist():
        marked = reviewed_as_spurious(database, target)
        if not marked:
            continue
        of_class = components["target"] == target
        known = set(components.loc[of_class, "component"])
        rows = of_class & components["component"].isin(marked)
        components.loc[rows, "verdict"] = "spurious"
        components.loc[rows, "marked"] = True
        irrelevant = pd.DataFrame(
            [
                (target, name, "spurious", None, 0.0, True, None)
                for name in marked
                if name not in known
            ],
            columns=components.columns,
        )
        if len(irrelevant):
            components = pd.concat([components, irrelevant.astype(components.dtypes)])
    return replace(verdicts, components=components.reset_index(drop=True))


def reviewed_audit(audit: Audit, reviews: Mapping[str, Review]) -> Audit:
    """Return an audit in which the components that a person marked are spurious.

    The table has a further column, ``marked``. The shares and p-values remain those of the lists.
    """
    names = [name for name, review in reviews.items() if review.status == "spurious"]
    marked = audit.frame["component"].isin(names)
    verdicts = audit.frame["verdict"].where(~marked, "spurious")
    return replace(audit, frame=audit.frame.assign(verdict=verdicts, marked=marked))


def _audits(audits: SavedAudits, target: int) -> list[AuditRecord]:
    """Return the saved audits of a class; those with concepts last, the latest edit last."""
    records = [record for record in audits.readable() if record.target == target]
    return sorted(records, key=lambda record: (len(record.concepts) > 0, record.changed))


def _default_concepts(database: Database, target: int) -> tuple[ConceptSet, Sequence[str]] | None:
    """Return the concepts that a class is audited with by default, and the names of their sets."""
    try:
        resolved = concepts_by_class(database, files=False)[0].get(target)
    except SemlensError:  # no class has concepts
        return None
    return None if resolved is None else (resolved.concepts, resolved.sets)


def _is_marked(record: AuditRecord, name: str) -> bool:
    review = record.reviews.get(name)
    return review is not None and review.status == "spurious"


def _saved(audits: SavedAudits, record: AuditRecord, names: Sequence[str], on: bool) -> AuditRecord:
    """Save the marks in an audit as it is now."""
    changes = {name: _changed(record, name, on) for name in names if on or _is_marked(record, name)}
    return audits.edit(record.id, record.revision, AuditChanges(reviews=changes))


def _changed(record: AuditRecord, name: str, on: bool) -> Review | None:
    """Return the new review of a component; without a mark, a note remains as reviewed."""
    note = record.reviews[name].note if name in record.reviews else ""
    if on:
        return Review(status="spurious", note=note)
    return Review(status="reviewed", note=note) if note else None
