"""Request models of the audit routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from semlens.lenses.audit.audit_records import AuditChanges, AuditRecord, ListedConcept
from semlens.lenses.audit.audit_settings import AuditSettings
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.resolve_concepts import sets_for
from semlens.concept_database import ConceptDatabase
from semlens.settings import Items
from semlens.web.request_model import RequestModel, WholeText

Text = Annotated[str, Field(max_length=1000)]
Terms = Annotated[Items[ListedConcept], Field(max_length=5000)]


class NewAudit(RequestModel):
    """A new audit of a class, with concept sets, listed concepts, or both."""

    target: int | Text
    name: Text | None = None
    from_sets: list[Text] = Field(default=[], max_length=50)
    valid: Terms = ()
    spurious: Terms = ()
    settings: AuditSettings = AuditSettings()

    def concepts(self, db: ConceptDatabase) -> ConceptSet:
        """Join the concept sets and the listed concepts.

        Raises
        ------
        ConceptError
            If a concept set is unknown.
        """
        listed = [sanitized(concept).concept("valid") for concept in self.valid]
        listed += [sanitized(concept).concept("spurious") for concept in self.spurious]
        return ConceptSet.join(
            [*self.sets(db), ConceptSet(tuple(listed), self.name or "your concepts")]
        )

    def sets(self, db: ConceptDatabase) -> list[ConceptSet]:
        """Return the concept sets for the class; file paths are refused."""
        return sets_for(db, self.from_sets, self.target, files=False)


class AuditEdit(WholeText, AuditChanges):
    """Changes to revision ``revision`` of a saved audit; null leaves a field as it is."""

    model_config = ConfigDict(strict=True)

    revision: int
    valid: Terms | None = None
    spurious: Terms | None = None

    def sanitized(self, record: AuditRecord) -> AuditChanges:
        """Return the changes with normalized texts, and with the image paths of ``record``."""
        sides = {
            side: tuple(sanitized(concept, record) for concept in concepts)
            for side, concepts in (("valid", self.valid), ("spurious", self.spurious))
            if concepts is not None
        }
        reviews = {
            name: review and review.model_copy(update={"note": review.note.strip(), "when": ""})
            for name, review in self.reviews.items()
        }
        return self.model_copy(
            update={**sides, "reviews": reviews, "name": self.name and self.name.strip()}
        )


class ConceptSetFile(RequestModel):
    """A concept set as the content of a file; the extension gives the format."""

    filename: Text
    text: str


def sanitized(concept: ListedConcept, record: AuditRecord | None = None) -> ListedConcept:
    """Return a concept from the page; image paths are taken from the saved audit only."""
    if concept.images and record is not None:
        return record.image_concept(concept.text)
    return ListedConcept(text=" ".join(concept.text.split()), path=concept.path)
