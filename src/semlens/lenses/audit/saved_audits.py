"""Saved audits: they are saved with their concept lists, and run when they are asked for.

Results are not stored: :func:`semlens.lenses.audit.audit.audit` computes them from the record and
the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from semlens.lenses.audit.audit import RESAMPLES, audit
from semlens.lenses.audit.audit_records import (
    AuditRecord,
    AuditRecords,
    ListedConcept,
    read_record,
    utc_now,
)
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.audit_settings import AuditSettings
from semlens.lenses.classes import class_name
from semlens.lenses.concepts import Concepts
from semlens.lenses.resolve_concepts import class_and_concepts
from semlens.store.json_documents import Document
from semlens.store.reader import Database
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
        class_index, concept_set = class_and_concepts(self.database, target, concepts)
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
        # the class is passed by index, since several may share the name
        concepts = replace(record.concepts, target=None)
        settings = record.settings.as_arguments()
        return audit(self.database, record.target, concepts, resamples=resamples, **settings)


def saved_audits(database: Database) -> SavedAudits:
    """Return the saved audits of a database, including unwritten ones of an open ``db.audits``."""
    audits = getattr(database, "audits", None)
    return audits if isinstance(audits, SavedAudits) else SavedAudits(database)
