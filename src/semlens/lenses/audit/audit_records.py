"""Records of saved audits: concept lists, settings and reviews, stored beside the database."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, Strict

from semlens.errors import ConceptError, RecipeError, SemlensError, StaleError, StoreError
from semlens.lenses.audit.concept_alignment import LONGEST_TEXT, check_lists
from semlens.lenses.class_relevance import MINIMUM, Minimum
from semlens.lenses.classes import class_name
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.settings import Items, Settings, setting
from semlens.settings import Settings as Checked
from semlens.store.json_documents import Document, JsonDocuments
from semlens.store.reader import Database
from semlens.types import Layers
from semlens.version import __version__

LEVEL = 0.05
"""Significance level: probability that random concepts count as a finding."""
Bound = Annotated[float, setting("A difference of two cosines.", ge=-2, le=2)]

Level = Annotated[
    float, setting("Probability that as many random concepts would align by chance.", gt=0, lt=1)
]
Threshold = Annotated[
    Bound | tuple[Bound | None, Bound | None] | None,
    setting("Fixed alignment threshold instead (the paper uses 0)."),
]
"""One threshold for both sides, or (valid, spurious); None calibrates it by ``level``."""
Seed = Annotated[int, setting("Random seed.", ge=0)]


class AuditSettings(Settings):
    """Settings of :func:`semlens.lenses.audit.audit.audit` besides its concept lists."""

    model_config = ConfigDict(strict=True)

    layers: Layers = None
    minimum: Minimum = MINIMUM
    level: Level = LEVEL
    threshold: Annotated[tuple[Bound | None, Bound | None], Strict(False)] = (None, None)
    """Fixed thresholds for (valid, spurious) concepts; None calibrates them by ``level``."""
    seed: Seed = 0

    @classmethod
    def of(
        cls, layers: Layers, minimum: float, level: float, threshold: Threshold, seed: int
    ) -> AuditSettings:
        """Return the settings from the arguments of an audit."""
        pair = threshold if isinstance(threshold, tuple) else (threshold, threshold)
        return cls(layers=layers, minimum=minimum, level=level, threshold=pair, seed=seed)

    @property
    def given_threshold(self) -> float | tuple[float | None, float | None] | None:
        """The threshold as an audit takes it: one for both sides if they have the same."""
        valid, spurious = self.threshold
        return valid if valid == spurious else self.threshold


LONGEST_NOTE = 4000
"""Characters of a review's note."""
Status = Literal["reviewed", "confirmed", "dismissed", "spurious"]
"""Looked at; the verdict is right; wrong or harmless; or it is spurious, whatever the verdict."""


class ListedConcept(Checked):
    """One concept of a list: name, categories from the outermost, and paths of images."""

    model_config = ConfigDict(strict=True)

    text: str
    path: Items[str] = ()
    images: Items[str] = ()

    @classmethod
    def of(cls, concept: Concept) -> ListedConcept:
        """Make an entry from a concept, with absolute image paths."""
        images = tuple(str(path.resolve()) for path in concept.images)
        return cls(text=concept.name, path=concept.path, images=images)

    def concept(self, kind: Literal["valid", "spurious"]) -> Concept:
        """Return the entry as a concept of a side."""
        return Concept(self.text, self.path, kind, tuple(map(Path, self.images)))


class Review(Checked):
    """A person's review of a component."""

    model_config = ConfigDict(strict=True)

    status: Status = "reviewed"
    note: str = Field(default="", max_length=LONGEST_NOTE)
    when: str = ""
    """ISO time in UTC."""


class AuditRecord(Checked):
    """A saved audit as it is stored.

    Parameters
    ----------
    revision
        Number of the edit, from 1.
    sources
        Names of the concept sets that the lists were copied from.
    reviews
        By component name.
    database
        Fingerprint of the database build that the audit was made on.
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
        valid = (entry.concept("valid") for entry in self.valid)
        spurious = (entry.concept("spurious") for entry in self.spurious)
        source = ", ".join(self.sources)
        return ConceptSet((*valid, *spurious), self.name, source, self.templates, self.target_name)

    def image_concept(self, name: str) -> ListedConcept:
        """Return the concept by image of this name, from either side.

        Raises
        ------
        ConceptError
            If there is none.
        """
        for entry in (*self.valid, *self.spurious):
            if entry.images and entry.text == name:
                return entry
        raise ConceptError(
            f"Audit {self.id} has no concept by image named '{name}'.",
            "Expected one that was saved with it: images can only be added in Python.",
            "Use a text, or save an audit with db.audits.add.",
        )


class AuditChanges(Checked):
    """Changes to a record; None leaves a field unchanged.

    Parameters
    ----------
    reviews
        Changed reviews only, by component name; None deletes one.
    update_build
        Update the record to the database's current build.
    """

    name: str | None = None
    valid: tuple[ListedConcept, ...] | None = None
    spurious: tuple[ListedConcept, ...] | None = None
    settings: AuditSettings | None = None
    reviews: Mapping[str, Review | None] = Field(default_factory=dict)
    update_build: bool = False


def read_record(document: Mapping[str, Any]) -> AuditRecord:
    """Parse a stored document.

    Raises
    ------
    RecipeError
        If a field is invalid.
    StoreError
        If another version of semlens wrote it in another format.
    """
    try:
        return AuditRecord.model_validate(document)
    except RecipeError as error:
        if document.get("version", __version__) == __version__:
            raise
        raise StoreError(
            f"The saved audit {document.get('id')} cannot be read: {error.value}",
            f"Expected one written by semlens {__version__}, not {document.get('version')}.",
            "Open it with that version.",
        ) from error


class AuditRecords:
    """The records of the saved audits of a database.

    They are numbered from 1 and stored in ``analysis/audits``. If the database's folder is
    read-only, ``keeps`` is False and they last as long as this object.
    """

    def __init__(self, database: Database, *, keeps: bool | None = None) -> None:
        self.database = database
        keeps = database.is_writable if keeps is None else keeps
        self._documents = JsonDocuments(database.audits_folder(), "audit", writable=keeps)

    @property
    def keeps(self) -> bool:
        """Whether saved audits are written to disk."""
        return self._documents.writable

    def writing(self) -> AbstractContextManager[None]:
        """Keep other threads and processes from writing; errors as for :meth:`edit`."""
        return self._documents.writing()

    def numbers(self) -> list[int]:
        """Return the numbers of all saved audits."""
        return self._documents.numbers()

    def readable(self) -> list[AuditRecord]:
        """Return the saved audits, except those that are damaged or of another version."""
        records: list[AuditRecord] = []
        for number in self.numbers():
            with contextlib.suppress(SemlensError):  # get() reports the reason
                records.append(self.get(number))
        return records

    def get(self, number: int) -> AuditRecord:
        """Return a saved audit.

        Raises
        ------
        StoreError
            If there is no such audit, its file is damaged, or a newer semlens wrote it.
        """
        return read_record(self._documents.read(number))

    def edit(self, number: int, revision: int, edit: AuditChanges) -> AuditRecord:
        """Change a saved audit.

        Raises
        ------
        EditError
            If it has been edited since ``revision``.
        ConceptError
            If a concept is on both sides, or the lists are too long.
        LayerError
            If the database has no such component or layer.
        StoreError
            If there is no such audit, or it cannot be written.
        """
        rows = self.database.rows_of(edit.reviews)  # checks that they exist
        names = self.database.names(np.array(rows, np.int64))
        reviews = dict(zip(names, edit.reviews.values(), strict=True))

        def change(document: Document) -> Document:
            record = read_record(document)
            changed = {
                field: value
                for field in ("name", "valid", "spurious", "settings")
                if (value := getattr(edit, field)) is not None
            }
            if reviews:
                changed["reviews"] = _merged_reviews(record.reviews, reviews)
            if edit.update_build:
                changed["database"] = self.database.fingerprint
            changed |= {"changed": utc_now(), "version": __version__}
            edited = read_record(record.model_copy(update=changed).model_dump(mode="json"))
            self._check(edited)
            return edited.model_dump(mode="json")

        return read_record(self._documents.edit(number, revision, change))

    def remove(self, number: int, revision: int) -> None:
        """Delete a saved audit, unless it has been edited since ``revision``."""
        self._documents.remove(number, revision)

    def check_class(self, record: AuditRecord) -> None:
        """Raise StaleError if the audit's class has a different name in the current database."""
        name = class_name(self.database, record.target)
        if name != record.target_name:
            raise StaleError(
                f"Audit {record.id} was made for '{record.target_name}', but class "
                f"{record.target} of the database is now '{name}'.",
                "Expected the same classes as when it was saved.",
                "Create a new audit for the class.",
            )

    def _check(self, record: AuditRecord) -> None:
        """Check layers and lists; lists may still be empty."""
        self.database.layer_names(record.settings.layers)
        check_lists(record.concepts)


def audit_records(database: Database) -> AuditRecords:
    """Return the records of a database, including unwritten ones of an open ``db.audits``."""
    audits = getattr(database, "audits", None)
    return audits if isinstance(audits, AuditRecords) else AuditRecords(database)


def _merged_reviews(
    reviews: Mapping[str, Review], changes: Mapping[str, Review | None]
) -> dict[str, Review]:
    """Return reviews with changes applied and timestamped, sorted by component name."""
    now = utc_now()
    new = {n: r.model_copy(update={"when": r.when or now}) for n, r in changes.items() if r}
    unchanged = {name: review for name, review in reviews.items() if name not in changes}
    return dict(sorted({**unchanged, **new}.items()))


def utc_now() -> str:
    """Return the current time as ISO text."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
