"""What the audit page sends, and what it means to the analysis."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from semlens.analysis.audit.saved_audits import (
    AuditChanges,
    AuditRecord,
    AuditSettings,
    ListedConcept,
)
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.resolve_concepts import sets_for
from semlens.api import ConceptDatabase

Text = Annotated[str, Field(max_length=1000)]
Terms = Annotated[tuple[ListedConcept, ...], Field(max_length=5000)]


class NewAudit(BaseModel):
    """An audit to save, or to try: of a class, with sets, own texts, or both."""

    target: int | Text
    name: Text | None = None
    from_sets: list[Text] = Field(default=[], max_length=50)
    valid: Terms = ()
    spurious: Terms = ()
    settings: AuditSettings = AuditSettings()

    def concepts(self, db: ConceptDatabase) -> ConceptSet:
        """Return the sets and the texts as one concept set.

        Raises
        ------
        ConceptError
            If there is no such set.
        """
        own = [trusted(one).concept("valid") for one in self.valid]
        own += [trusted(one).concept("spurious") for one in self.spurious]
        return ConceptSet.join(
            [*self.sets(db), ConceptSet(tuple(own), self.name or "your concepts")]
        )

    def sets(self, db: ConceptDatabase) -> list[ConceptSet]:
        """Return the sets, chosen for the class; never files."""
        return sets_for(db, self.from_sets, self.target, files=False)


class AuditEdit(AuditChanges):
    """What is to change; null leaves it. ``revision`` is the one that was read."""

    revision: int
    valid: Terms | None = None
    spurious: Terms | None = None

    def checked(self, known: AuditRecord) -> AuditChanges:
        """Return it as it is kept, of a record as it was read."""
        sides = {
            side: tuple(trusted(one, known) for one in terms)
            for side, terms in (("valid", self.valid), ("spurious", self.spurious))
            if terms is not None
        }
        reviews = {
            name: one and one.model_copy(update={"note": one.note.strip(), "when": ""})
            for name, one in self.reviews.items()
        }
        return self.model_copy(
            update={**sides, "reviews": reviews, "name": self.name and self.name.strip()}
        )


class SetFile(BaseModel):
    """A concept set as the text of a file; its ending says the form."""

    file: Text
    text: str


def trusted(term: ListedConcept, known: AuditRecord | None = None) -> ListedConcept:
    """Return a concept that a page has sent; paths of images are those of the saved audit."""
    if term.images and known is not None:
        return known.image_concept(term.text)
    return ListedConcept(text=" ".join(term.text.split()), path=term.path)


def content_of(concepts: ConceptSet) -> list[object]:
    """Return what decides a result: the lists of a saved audit change under one name."""
    return [
        [[one.name, list(one.path), one.kind, [str(image) for image in one.images]]
         for one in concepts.concepts],
        list(concepts.templates or ()),
    ]  # fmt: skip
