"""What the audit page sends, and what it means to the analysis."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, Field

from semlens.analysis.audit.audit import LEVEL, MINIMUM
from semlens.analysis.audit.record import AuditRecord, Settings, Status, Term
from semlens.analysis.audit.sweep import set_for
from semlens.analysis.concepts import ConceptSet, bundled_names, load_sets
from semlens.api import ConceptDatabase
from semlens.errors import ConceptError, nearest

KEPT = "audit:"
"""Before the number of a saved audit whose lists are taken over."""
Text = Annotated[str, Field(max_length=1000)]


class AuditSettings(BaseModel):
    """What an audit is made with; thresholds that are null follow from chance."""

    layers: list[Text] | None = None
    minimum: float = MINIMUM
    level: float = LEVEL
    valid_threshold: float | None = None
    spurious_threshold: float | None = None
    seed: int = 0

    def settings(self) -> Settings:
        """Return them as they are kept."""
        return Settings(
            layers=None if self.layers is None else tuple(self.layers),
            minimum=self.minimum,
            level=self.level,
            threshold=(self.valid_threshold, self.spurious_threshold),
            seed=self.seed,
        )


class GivenTerm(BaseModel):
    """A concept of a list; with ``pictures``, one that the saved audit has by images."""

    text: Text
    path: list[Text] = Field(default=[], max_length=16)
    pictures: int = 0

    def term(self, known: AuditRecord | None = None) -> Term:
        """Return it as it is kept; paths of images never come from a page."""
        if self.pictures and known is not None:
            return known.pictured(self.text)
        return Term(text=" ".join(self.text.split()), path=tuple(self.path))


Terms = Annotated[list[GivenTerm], Field(max_length=5000)]


class NewAudit(BaseModel):
    """An audit to save, or to try: of a class, with sets, own texts, or both."""

    target: int | Text
    name: Text | None = None
    from_sets: list[Text] = Field(default=[], max_length=50)
    valid: Terms = []
    spurious: Terms = []
    settings: AuditSettings = AuditSettings()

    def concepts(self, db: ConceptDatabase) -> ConceptSet:
        """Return the sets and the texts as one concept set.

        Raises
        ------
        ConceptError
            If there is no such set.
        """
        sets = [one for name in self.from_sets for one in _sets(db, name, self.target)]
        own = [one.term().concept("valid") for one in self.valid]
        own += [one.term().concept("spurious") for one in self.spurious]
        name = self.name or "your concepts"
        return ConceptSet.join([*sets, ConceptSet(tuple(own), name)])

    def sources(self, db: ConceptDatabase) -> list[str]:
        """Return the names of the sets, where they are told from."""
        sets = [one for name in self.from_sets for one in _sets(db, name, self.target)]
        return list(dict.fromkeys(one.name for one in sets))


class GivenReview(BaseModel):
    """What is said of a component."""

    status: Status = "reviewed"
    note: Annotated[str, Field(max_length=4000)] = ""


class AuditEdit(BaseModel):
    """What is to change; null leaves it. ``revision`` is the one that was read."""

    revision: int
    name: Text | None = None
    valid: Terms | None = None
    spurious: Terms | None = None
    settings: AuditSettings | None = None
    reviews: dict[str, GivenReview | None] = {}
    """Only those that change; null takes one back."""
    renew: bool = False
    """Take it over to the build that the database has now."""


class SetFile(BaseModel):
    """A concept set as the text of a file; its ending says the form."""

    file: Text
    text: str


def content_of(concepts: ConceptSet) -> list[object]:
    """Return what decides a result: the lists of a saved audit change under one name."""
    return [
        [[one.name, list(one.path), one.kind, [str(image) for image in one.images]]
         for one in concepts.concepts],
        list(concepts.templates or ()),
    ]  # fmt: skip


def _sets(db: ConceptDatabase, name: str, target: int | str) -> list[ConceptSet]:
    """Return a bundled set, a family's sets for a class, or a saved audit's; never a file."""
    if name.startswith(KEPT) and name.removeprefix(KEPT).isdecimal():
        found = [db.audits.get(int(name.removeprefix(KEPT))).concepts]
    elif name in bundled_names():
        found = load_sets(name)
    elif any(one.startswith(f"{name}/") for one in bundled_names()):
        return [set_for(db, target, load_sets(name))]
    else:
        raise ConceptError(
            f"There is no concept set '{name}'.",
            f"The nearest ones are {nearest(name, bundled_names())}.",
            "Choose one of them.",
        )
    # chosen for this class, whatever class it was written for
    return [replace(one, target=None) for one in found]
