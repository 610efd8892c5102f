"""Alignment of components with the valid or spurious concepts of an audit, against chance.

The larger a concept set, the larger its best alignment by chance. A component therefore counts as
aligned with a set of n concepts only above a quantile of the best of n random concepts, drawn from
a background vocabulary. This is an addition of semlens: the paper compares with zero (3.4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64

from semlens.errors import ConceptError
from semlens.lenses.audit.random_concepts import (
    Background,
    ConceptPool,
    Theta,
    chance_threshold,
    pool_concepts,
)
from semlens.lenses.concepts import Concept, ConceptSet, Kind, concept_key
from semlens.lenses.query_embedding import QueryEmbedding, embed_concepts
from semlens.store.reader import Database

MOST_CONCEPTS = 2000
"""Limit of both lists together: embedding more takes long, and the page shows all of them."""
LONGEST_TEXT = 200
"""Characters of a concept or a name."""


def split_sides(concepts: ConceptSet) -> tuple[ConceptSet, ConceptSet]:
    """Return the valid and the spurious concepts of a set, without repeats; one may be empty.

    Raises
    ------
    ConceptError
        If neither side has a concept, or one concept is on both.
    """
    valid, spurious = _unique(concepts, "valid"), _unique(concepts, "spurious")
    if not len(valid) + len(spurious):
        raise ConceptError(
            f"The concept set '{concepts.name}' has no valid and no spurious concepts.",
            "Expected [valid] or [spurious]: what the class should, or should not, rely on.",
            "Rename [concepts] in the file, or choose another set.",
        )
    valid_keys = {concept_key(concept) for concept in valid.concepts}
    on_both = [c.name for c in spurious.concepts if concept_key(c) in valid_keys]
    if on_both:
        raise ConceptError(
            f"The concept set '{concepts.name}' lists as both valid and spurious: "
            f"{', '.join(on_both)}.",
            "Expected each concept on one side only.",
            "Remove it from one side.",
        )
    return valid, spurious


def check_lists(concepts: ConceptSet) -> None:
    """Check the lists of a saved audit; both may be empty.

    Raises
    ------
    ConceptError
        If a list is too long, a text is empty or too long, or a concept is on both sides.
    """
    if len(concepts) > MOST_CONCEPTS:
        raise ConceptError(
            f"The lists have {len(concepts)} concepts.",
            f"Expected at most {MOST_CONCEPTS}.",
            "Remove some: a longer list also needs a stronger alignment to exceed chance.",
        )
    for concept in concepts.concepts:
        if not 0 < len(concept.name.strip()) <= LONGEST_TEXT:
            shown = concept.name[:40] + ("..." if len(concept.name) > 40 else "")
            raise ConceptError(
                f"The concept '{shown}' has {len(concept.name)} characters.",
                f"Expected 1 to {LONGEST_TEXT}.",
                "Write a word or a short phrase.",
            )
    if len(concepts):
        split_sides(concepts)


def _unique(concepts: ConceptSet, kind: Kind) -> ConceptSet:
    """Return the concepts of a kind; of several with one key, the first."""
    first: dict[str, Concept] = {}
    for concept in concepts.of_kind(kind).concepts:
        first.setdefault(concept_key(concept), concept)
    return replace(concepts, concepts=tuple(first.values()))


@dataclass(frozen=True)
class ConceptAlignment:
    """Alignment of k components with the n concepts of one side (paper, 3.4)."""

    concepts: ConceptSet
    query: QueryEmbedding
    alignment: Float32[np.ndarray, "k n"]
    threshold: Float32[np.ndarray, "k n"]
    """What each alignment must exceed; it differs between texts and images only."""
    pools: tuple[ConceptPool, ...]

    @property
    def best(self) -> Int64[np.ndarray, " k"]:
        """Index of the concept whose threshold each component exceeds most."""
        return (self.alignment - self.threshold).argmax(axis=1)

    @property
    def aligned(self) -> Bool[np.ndarray, " k"]:
        """Whether each component aligns with some concept."""
        return np.any(self.alignment > self.threshold, axis=1)

    def at_best(self, values: Float32[np.ndarray, "k n"]) -> Float32[np.ndarray, " k"]:
        """Return the values at each component's best concept."""
        return np.take_along_axis(values, self.best[:, None], axis=1)[:, 0]


def align_concepts(
    theta: Theta,
    database: Database,
    concepts: ConceptSet,
    background: Background,
    level: float,
    threshold: float | None,
) -> ConceptAlignment:
    """Align components with the concepts of one side.

    Parameters
    ----------
    level
        Probability that a set of as many random concepts aligns with a component.
    threshold
        Fixed threshold instead of the one that follows from ``level``.
    """
    query = embed_concepts(database, concepts)
    raw, centred = theta.align(query)
    image_counts = np.array([len(concept.images) for concept in concepts.concepts])
    thresholds = np.zeros(raw.shape, np.float32)
    pools: list[ConceptPool] = []
    for count in np.unique(image_counts):
        columns = np.flatnonzero(image_counts == count)
        random, random_centred = background(int(count))
        if threshold is None:
            # texts and images share the level; a threshold is never below the paper's zero
            share = level * len(columns) / len(concepts)
            bound = np.maximum(chance_threshold(random, len(columns), share), np.float32(0))
            pools.append(pool_concepts(random_centred, centred[:, columns], share))
        else:
            bound = np.full(len(raw), threshold, np.float32)
            both = np.concatenate([random, raw[:, columns]], axis=1)
            pools.append(ConceptPool(both > bound[:, None], len(columns)))
        thresholds[:, columns] = bound[:, None]
    return ConceptAlignment(concepts, query, raw, thresholds, tuple(pools))
