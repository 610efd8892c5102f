"""Saved audits: lists, settings and reviews that people edit, kept beside the database.

What an audit finds is not kept: it follows from the record and the database, by
:func:`semlens.analysis.audit.audit.audit`.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace

from semlens.analysis.audit.audit import RESAMPLES, audit
from semlens.analysis.audit.expected import check_lists
from semlens.analysis.audit.found import Audit
from semlens.analysis.audit.record import AuditRecord, Edit, Review, Settings, Term, read_record
from semlens.analysis.concept_sets import class_and_concepts
from semlens.analysis.concepts import Concepts
from semlens.analysis.target import class_name
from semlens.errors import SemlensError, StaleError
from semlens.store import layout
from semlens.store.documents import Document, Documents
from semlens.store.reader import Database
from semlens.types import Component
from semlens.version import __version__


class KeptAudits:
    """The saved audits of a database (``db.audits``).

    They are numbered from 1 and lie in ``analysis/audits``. Where the database's folder cannot
    be written, ``keeps`` is False and what is saved lasts as long as this object.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.open("demo.semlens")                                   # doctest: +SKIP
    >>> mine = db.audits.add("ox", "paper-ox")                         # doctest: +SKIP
    >>> db.audits.run(mine.id).share("spurious")                       # doctest: +SKIP
    """

    def __init__(self, database: Database, *, keeps: bool | None = None) -> None:
        self.database = database
        keeps = database.keeps_analysis if keeps is None else keeps
        self._documents = Documents(database.path / layout.AUDITS, "audit", keeps=keeps)

    @property
    def keeps(self) -> bool:
        """Whether they are kept on disk."""
        return self._documents.keeps

    def numbers(self) -> list[int]:
        """Return the numbers of all saved audits."""
        return self._documents.numbers()

    def readable(self) -> list[AuditRecord]:
        """Return the saved audits, but for those that are damaged or of another version."""
        found: list[AuditRecord] = []
        for number in self.numbers():
            with contextlib.suppress(SemlensError):  # get says why
                found.append(self.get(number))
        return found

    def get(self, number: int) -> AuditRecord:
        """Return a saved audit.

        Raises
        ------
        StoreError
            If there is none of this number, its file is damaged, or it is of a newer semlens.
        """
        return read_record(self._documents.read(number))

    def add(
        self,
        target: int | str,
        concepts: Concepts,
        *,
        name: str | None = None,
        sources: Sequence[str] = (),
        settings: Settings | None = None,
    ) -> AuditRecord:
        """Save a new audit; its lists may still be empty.

        Raises
        ------
        RelevanceError
            If there is no such class.
        ConceptError
            If a concept is on both sides, or the lists are too long.
        """
        number, held = class_and_concepts(self.database, target, concepts)
        title, now = class_name(self.database, number), _now()
        sides = {
            kind: [Term.of(one).model_dump() for one in held.concepts if one.kind == kind]
            for kind in ("valid", "spurious")
        }
        content: Document = {
            "name": name or title,
            "target": number,
            "target_name": title,
            **sides,
            "templates": held.templates,
            "sources": list(sources or [held.name] if len(held) else []),
            "settings": (settings or Settings()).model_dump(),
            "reviews": {},
            "created": now,
            "changed": now,
            "database": self.database.fingerprint,
            "version": __version__,
        }
        self._check(read_record({"id": 1, "revision": 1, **content}))
        return read_record(self._documents.add(content))

    def edit(self, number: int, revision: int, edit: Edit) -> AuditRecord:
        """Change a saved audit.

        Raises
        ------
        EditError
            If it has been edited since ``revision``.
        ConceptError
            If a concept is on both sides, or the lists are too long.
        LayerError
            If the database has no component or layer of a name.
        StoreError
            If there is none, or it cannot be written.
        """
        reviews = {str(self._component(name)): one for name, one in edit.reviews.items()}

        def change(document: Document) -> Document:
            known = read_record(document)
            changed = {
                field: value
                for field in ("name", "valid", "spurious", "settings")
                if (value := getattr(edit, field)) is not None
            }
            if reviews:
                changed["reviews"] = _reviewed(known.reviews, reviews)
            if edit.renew:
                changed["database"] = self.database.fingerprint
            changed |= {"changed": _now(), "version": __version__}
            made = read_record(known.model_copy(update=changed).model_dump(mode="json"))
            self._check(made)
            return made.model_dump(mode="json")

        return read_record(self._documents.edit(number, revision, change))

    def remove(self, number: int, revision: int) -> None:
        """Remove a saved audit, if it has not been edited since."""
        self._documents.remove(number, revision)

    def run(self, which: int | AuditRecord, *, resamples: int = RESAMPLES) -> Audit:
        """Compute a saved audit; ``resamples`` as for :func:`audit`.

        Raises
        ------
        StaleError
            If the class has another name by now.
        SemlensError
            As :func:`audit` does: both lists are empty, for example.
        """
        one = which if isinstance(which, AuditRecord) else self.get(which)
        self.check_class(one)
        # its class is given by number, for several may have the name
        concepts = replace(one.concepts, target=None)
        settings = one.settings.given()
        return audit(self.database, one.target, concepts, resamples=resamples, **settings)

    def check_class(self, one: AuditRecord) -> None:
        """Refuse an audit whose class is another one in the database as it is now."""
        named = class_name(self.database, one.target)
        if named != one.target_name:
            raise StaleError(
                f"Audit {one.id} was made for '{one.target_name}'; class {one.target} of the "
                f"database is '{named}' by now.",
                "Expected the same classes as when it was saved.",
                "Make a new audit for the class.",
            )

    def _component(self, name: str) -> Component:
        component = Component.parse(name)
        self.database.row(component)  # it is there
        return component

    def _check(self, one: AuditRecord) -> None:
        """Refuse what could never be computed; empty lists are on their way."""
        self.database.chosen(one.settings.given()["layers"])
        check_lists(one.concepts)


def saved_audits(database: Database) -> KeptAudits:
    """Return the saved audits of a database: those of its session, which may be unwritten yet."""
    found = getattr(database, "audits", None)
    return found if isinstance(found, KeptAudits) else KeptAudits(database)


def _reviewed(known: Mapping[str, Review], given: Mapping[str, Review | None]) -> dict[str, Review]:
    """Return reviews with some of them changed now, in the order of the components' names."""
    now = _now()
    new = {n: r.model_copy(update={"when": r.when or now}) for n, r in given.items() if r}
    kept = {name: one for name, one in known.items() if name not in given}
    return dict(sorted({**kept, **new}.items()))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
