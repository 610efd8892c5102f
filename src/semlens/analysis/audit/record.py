"""What is kept of an audit: its lists, settings and reviews, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from semlens.analysis.audit.audit import Bound, audit
from semlens.analysis.audit.expected import LONGEST_TEXT
from semlens.analysis.concepts import Concept, ConceptSet
from semlens.errors import ConceptError, RecipeError, StoreError
from semlens.settings import Settings as Checked
from semlens.settings import request_model
from semlens.version import __version__

LONGEST_NOTE = 4000
Status = Literal["reviewed", "confirmed", "dismissed"]
"""A person has looked; agrees that it is as the audit says; or that it does not matter."""


class Term(Checked):
    """One concept of a list: its name, its categories, outermost first, and its images."""

    text: str
    path: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, concept: Concept) -> Term:
        """Take a concept over; images by their whole paths."""
        images = tuple(str(path.resolve()) for path in concept.images)
        return cls(text=concept.name, path=concept.path, images=images)

    def concept(self, kind: Literal["valid", "spurious"]) -> Concept:
        """Return it as a concept of a side."""
        return Concept(self.text, self.path, kind, tuple(map(Path, self.images)))


class Settings(
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
    valid: tuple[Term, ...] = ()
    spurious: tuple[Term, ...] = ()
    templates: tuple[str, ...] | None = None
    sources: tuple[str, ...] = ()
    settings: Settings = Settings()
    reviews: Mapping[str, Review] = Field(default_factory=dict)
    created: str
    changed: str
    database: str
    version: str = __version__

    @property
    def concepts(self) -> ConceptSet:
        """Both lists as a concept set."""
        made = [term.concept("valid") for term in self.valid]
        made += [term.concept("spurious") for term in self.spurious]
        source = ", ".join(self.sources)
        return ConceptSet(tuple(made), self.name, source, self.templates, self.target_name)

    def pictured(self, name: str) -> Term:
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


class Edit(Checked):
    """What is to change of a record; None leaves it as it is.

    Parameters
    ----------
    reviews
        Only those that change, by the component's name; None takes one back.
    renew
        Take the record over to the build that the database has now.
    """

    name: str | None = None
    valid: tuple[Term, ...] | None = None
    spurious: tuple[Term, ...] | None = None
    settings: Settings | None = None
    reviews: Mapping[str, Review | None] = Field(default_factory=dict)
    renew: bool = False


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
