"""Saved audits: lists, settings and reviews that people edit, kept beside the database.

What an audit finds is not kept: it follows from the record and the database, by
:func:`semlens.analysis.audit.audit.audit`.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from semlens.analysis.audit.audit import RESAMPLES, Bound, audit
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.concept_alignment import LONGEST_TEXT, check_lists
from semlens.analysis.classes import class_name
from semlens.analysis.concepts import Concept, Concepts, ConceptSet
from semlens.analysis.resolve_concepts import class_and_concepts
from semlens.errors import ConceptError, RecipeError, SemlensError, StaleError, StoreError
from semlens.settings import Settings as Checked
from semlens.settings import request_model
from semlens.store import file_names
from semlens.store.json_documents import Document, JsonDocuments
from semlens.store.reader import Database
from semlens.version import __version__

LONGEST_NOTE = 4000
Status = Literal["reviewed", "confirmed", "dismissed"]
"""A person has looked; agrees that it is as the audit says; or that it does not matter."""


class ListedConcept(Checked):
    """One concept of a list: its name, its categories, outermost first, and its images."""

    text: str
    path: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, concept: Concept) -> ListedConcept:
        """Take a concept over; images by their whole paths."""
        images = tuple(str(path.resolve()) for path in concept.images)
        return cls(text=concept.name, path=concept.path, images=images)

    def concept(self, kind: Literal["valid", "spurious"]) -> Concept:
        """Return it as a concept of a side."""
        return Concept(self.text, self.path, kind, tuple(map(Path, self.images)))


class AuditSettings(
    Checked,
    request_model(
        audit, "AuditSettings", without=("target", "concepts", "background", "resamples")
    ),
):
    """What an audit is made with, besides its lists; see :func:`audit`."""

    threshold: tuple[Bound | None, Bound | None] = (None, None)
    """Least alignment with (valid, spurious) concepts; None lets chance decide."""

    def given(self) -> dict[str, Any]:
        """Return them as :func:`audit` takes them."""
        found = dict(self)
        return {**found, "threshold": None if self.threshold == (None, None) else self.threshold}


class Review(Checked):
    """What a person says of a component."""

    status: Status = "reviewed"
    note: str = Field(default="", max_length=LONGEST_NOTE)
    when: str = ""
    """ISO time in UTC."""


class AuditRecord(Checked):
    """What is kept of an audit.

    Parameters
    ----------
    revision
        Counts its edits, from 1.
    sources
        Names of the concept sets that the lists began as.
    reviews
        By the component's name.
    database
        Fingerprint of the build that it was made on.
    """

    id: int
    revision: int
    name: str = Field(min_length=1, max_length=LONGEST_TEXT)
    target: int
    target_name: str
    valid: tuple[ListedConcept, ...] = ()
    spurious: tuple[ListedConcept, ...] = ()
    templates: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()
    settings: AuditSettings = AuditSettings()
    reviews: Mapping[str, Review] = Field(default_factory=dict)
    created: str
    changed: str
    database: str
    version: str = __version__

    @property
    def concepts(self) -> ConceptSet:
        """Both lists as a concept set."""
        valid = (term.concept("valid") for term in self.valid)
        spurious = (term.concept("spurious") for term in self.spurious)
        source = ", ".join(self.sources)
        return ConceptSet((*valid, *spurious), self.name, source, self.templates, self.target_name)

    def pictured(self, name: str) -> ListedConcept:
        """Return the concept by image that has a name, on either side.

        Raises
        ------
        ConceptError
            If there is none.
        """
        for term in (*self.valid, *self.spurious):
            if term.images and term.text == name:
                return term
        raise ConceptError(
            f"Audit {self.id} has no concept '{name}' by image.",
            "Expected one that it was saved with: images come from Python only.",
            "Write a text, or save an audit with db.audits.add.",
        )


class AuditChanges(Checked):
    """What is to change of a record; None leaves it as it is.

    Parameters
    ----------
    reviews
        Only those that change, by the component's name; None takes one back.
    update_build
        Take the record over to the build that the database has now.
    """

    name: str | None = None
    valid: tuple[ListedConcept, ...] | None = None
    spurious: tuple[ListedConcept, ...] | None = None
    settings: AuditSettings | None = None
    reviews: Mapping[str, Review | None] = Field(default_factory=dict)
    update_build: bool = False


def read_record(document: Mapping[str, Any]) -> AuditRecord:
    """Return a document as a record.

    Raises
    ------
    RecipeError
        If a field is wrong.
    StoreError
        If another version of semlens has written it, in another form.
    """
    try:
        return AuditRecord.model_validate(document)
    except RecipeError as error:
        if document.get("version", __version__) == __version__:
            raise
        raise StoreError(
            f"The saved audit {document.get('id')} cannot be read: {error.value}",
            f"Expected one of semlens {__version__}; it was written by {document.get('version')}.",
            "Read it with that version.",
        ) from error


class SavedAudits:
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
        self._documents = JsonDocuments(database.path / file_names.AUDITS, "audit", keeps=keeps)

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
        number, held = class_and_concepts(self.database, target, concepts)
        title, now = class_name(self.database, number), _now()
        sides = {
            kind: [ListedConcept.of(one).model_dump() for one in held.concepts if one.kind == kind]
            for kind in ("valid", "spurious")
        }
        content: Document = {
            "name": name or title,
            "target": number,
            "target_name": title,
            **sides,
            "templates": held.templates,
            "sources": list(sources or [held.name] if len(held) else []),
            "settings": (settings or AuditSettings()).model_dump(),
            "reviews": {},
            "created": now,
            "changed": now,
            "database": self.database.fingerprint,
            "version": __version__,
        }
        self._check(read_record({"id": 1, "revision": 1, **content}))
        return read_record(self._documents.add(content))

    def edit(self, number: int, revision: int, edit: AuditChanges) -> AuditRecord:
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
        rows = self.database.rows_of(edit.reviews)  # they are there
        names = self.database.names(np.array(rows, np.int64))
        reviews = dict(zip(names, edit.reviews.values(), strict=True))

        def change(document: Document) -> Document:
            known = read_record(document)
            changed = {
                field: value
                for field in ("name", "valid", "spurious", "settings")
                if (value := getattr(edit, field)) is not None
            }
            if reviews:
                changed["reviews"] = _reviewed(known.reviews, reviews)
            if edit.update_build:
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

    def _check(self, one: AuditRecord) -> None:
        """Refuse what could never be computed; empty lists are on their way."""
        self.database.chosen(one.settings.given()["layers"])
        check_lists(one.concepts)


def saved_audits(database: Database) -> SavedAudits:
    """Return the saved audits of a database: those of its session, which may be unwritten yet."""
    found = getattr(database, "audits", None)
    return found if isinstance(found, SavedAudits) else SavedAudits(database)


def _reviewed(known: Mapping[str, Review], given: Mapping[str, Review | None]) -> dict[str, Review]:
    """Return reviews with some of them changed now, in the order of the components' names."""
    now = _now()
    new = {n: r.model_copy(update={"when": r.when or now}) for n, r in given.items() if r}
    kept = {name: one for name, one in known.items() if name not in given}
    return dict(sorted({**kept, **new}.items()))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
