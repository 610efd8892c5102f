"""What a class should rest on and what not: the two sides of an audit's concept set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from semlens.analysis.concepts import Concept, ConceptSet
from semlens.errors import ConceptError

MOST_CONCEPTS = 2000
"""Concepts of both sides: embedding them takes seconds, and a page shows them all."""
LONGEST_TEXT = 200


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


def check_lists(concepts: ConceptSet) -> None:
    """Refuse lists that are too long, texts that are empty or too long, and contradictions.

    Raises
    ------
    ConceptError
        If they are; both lists may be empty.
    """
    if len(concepts) > MOST_CONCEPTS:
        raise ConceptError(
            f"The lists have {len(concepts)} concepts.",
            f"Expected at most {MOST_CONCEPTS}.",
            "Leave some out: a longer list also needs a stronger alignment to beat chance.",
        )
    for concept in concepts.concepts:
        if not 0 < len(concept.name.strip()) <= LONGEST_TEXT:
            shown = concept.name[:40] + ("..." if len(concept.name) > 40 else "")
            raise ConceptError(
                f"A concept of {len(concept.name)} characters: '{shown}'.",
                f"Expected 1 to {LONGEST_TEXT}.",
                "Write a word or a short phrase.",
            )
    if len(concepts):
        Expected.of(concepts)


def key(concept: Concept) -> str:
    """Return what two spellings of one concept have in common."""
    return " ".join(concept.name.casefold().split())


def _unique(concepts: ConceptSet, kind: str) -> ConceptSet:
    first: dict[str, Concept] = {}
    for concept in concepts.concepts:
        if concept.kind == kind:
            first.setdefault(key(concept), concept)
    return replace(concepts, concepts=tuple(first.values()))
