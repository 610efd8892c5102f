"""One side of an audit: how components align with its concepts, against chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Bool, Float32, Int64

from semlens.analysis.audit.chance import Null, chance_threshold, random_pictures
from semlens.analysis.concepts import Concept, ConceptSet
from semlens.analysis.probe import LABEL_TEMPLATES, Probe, alignment, concept_probe, null_vector
from semlens.errors import ConceptError
from semlens.store.reader import Database

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


RANDOM_PICTURES = 500
"""Random image concepts at least, where a set's concepts are images."""

Background = Callable[[int], Float32[np.ndarray, "k v"]]
"""From the number of images behind a concept (0: a text) to alignments with random ones."""


@dataclass(frozen=True)
class Side:
    """Alignment of k components with the n concepts of one side (paper, 3.4)."""

    concepts: ConceptSet
    probe: Probe
    alignment: Float32[np.ndarray, "k n"]
    threshold: Float32[np.ndarray, "k n"]
    """What each concept must exceed; it differs between texts and images only."""
    nulls: tuple[Null, ...]

    @property
    def best(self) -> Int64[np.ndarray, " k"]:
        """The concept that each component exceeds most."""
        return (self.alignment - self.threshold).argmax(axis=1)

    @property
    def aligned(self) -> Bool[np.ndarray, " k"]:
        """Which components align with some concept."""
        return np.any(self.alignment > self.threshold, axis=1)

    def at_best(self, values: Float32[np.ndarray, "k n"]) -> Float32[np.ndarray, " k"]:
        """Return each component's value of its best concept."""
        return np.take_along_axis(values, self.best[:, None], axis=1)[:, 0]


def measure_side(
    theta: Float32[np.ndarray, "k d"],
    database: Database,
    concepts: ConceptSet,
    background: Background,
    level: float,
    threshold: float | None,
) -> Side:
    """Align components with a side's concepts.

    Parameters
    ----------
    level
        Chance that a set of as many random concepts aligns with a component.
    threshold
        Fixed least alignment, instead of what follows from ``level``.
    """
    probe = concept_probe(database, concepts)
    images = np.array([len(concept.images) for concept in concepts.concepts])
    least = np.zeros((len(theta), len(concepts)), np.float32)
    nulls: list[Null] = []
    for count in np.unique(images):
        mine = np.flatnonzero(images == count)
        random = background(int(count))
        if threshold is None:
            # texts and images share the level; the paper's bound of zero stays the least
            part = level * len(mine) / len(concepts)
            bound = np.maximum(chance_threshold(random, len(mine), part), np.float32(0))
        else:
            bound = np.full(len(theta), threshold, np.float32)
        least[:, mine] = bound[:, None]
        nulls.append(Null(random > bound[:, None], len(mine)))
    return Side(concepts, probe, alignment(theta, probe), least, tuple(nulls))


def make_background(
    theta: Float32[np.ndarray, "k d"],
    database: Database,
    target: int,
    vocabulary: ConceptSet,
    audited: Sequence[ConceptSet],
    level: float,
    seed: int,
) -> Background:
    """Return the alignments with random concepts: other words, or what other classes show."""
    templates = next((s.templates for s in audited if s.templates), None) or LABEL_TEMPLATES
    taken = {key(concept) for one in audited for concept in one.concepts}
    enough = max(RANDOM_PICTURES, int(2 * max(map(len, audited)) / level))

    @cache
    def background(images: int) -> Float32[np.ndarray, "k v"]:
        if images:
            vectors = random_pictures(database, enough, images, target, seed)
            names = tuple(f"random {place}" for place in range(enough))
            null = null_vector(database.embedder, templates)
            return alignment(theta, Probe(vectors, names, null, database.embedder.fingerprint))
        words = {key(concept): concept for concept in vocabulary.concepts if not concept.images}
        # embedded as a whole, which is remembered from one class to the next
        found = alignment(
            theta, concept_probe(database, ConceptSet(tuple(words.values())), templates)
        )
        return found[:, [name not in taken for name in words]]

    return background
