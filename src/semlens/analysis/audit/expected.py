"""What a class should rest on and what not: the two sides of an audit's concept set."""

from __future__ import annotations

from dataclasses import dataclass

from semlens.analysis.concepts import Concept, ConceptSet
from semlens.errors import ConceptError


@dataclass(frozen=True)
class Expected:
    """Valid and spurious concepts, each named once; one side may be empty."""

    valid: ConceptSet
    spurious: ConceptSet

    @classmethod
    def of(cls, concepts: ConceptSet) -> Expected:
        """Divide a set; a name that recurs on one side counts once.

        Raises
        ------
        ConceptError
            If neither side has a concept, or one concept is on both.
        """
        valid, spurious = _unique(concepts, "valid"), _unique(concepts, "spurious")
        if not len(valid) + len(spurious):
            raise ConceptError(
                f"The concept set '{concepts.name}' has no valid and no spurious concepts.",
                "Expected [valid] or [spurious]: what the class should rest on, and what not.",
                "Rename [concepts] in the file, or choose another set.",
            )
        known = {key(concept) for concept in valid.concepts}
        twice = [c.name for c in spurious.concepts if key(c) in known]
        if twice:
            raise ConceptError(
                f"The concept set '{concepts.name}' calls valid and spurious: {', '.join(twice)}.",
                "Expected each concept on one side.",
                "Take it off one of them.",
            )
        return cls(valid, spurious)


def key(concept: Concept) -> str:
    """Return what two spellings of one concept have in common."""
    return " ".join(concept.name.casefold().split())


def _unique(concepts: ConceptSet, kind: str) -> ConceptSet:
    first: dict[str, Concept] = {}
    for concept in concepts.concepts:
        if concept.kind == kind:
            first.setdefault(key(concept), concept)
    chosen = tuple(first.values())
    return ConceptSet(chosen, concepts.name, concepts.source, concepts.templates, concepts.target)
