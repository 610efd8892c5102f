"""One side of an audit: how components align with its concepts, against chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float32, Int64

from semlens.analysis.align import alignment
from semlens.analysis.audit.chance import Null, chance_threshold
from semlens.analysis.audit.expected import key
from semlens.analysis.audit.pictures import random_pictures
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.probe import LABEL_TEMPLATES, Probe, concept_probe, null_vector
from semlens.store.reader import Database

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
