"""One side of an audit: how components align with its concepts, against chance.

The larger a concept set, the larger the best alignment that chance gives. So a component counts as
aligned with a set of n concepts only above the quantile of the best of n random ones, drawn from a
background vocabulary. Our addition: the paper compares with zero (3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy.special import gammaln

from semlens.analysis.concepts import Concept, ConceptSet, Kind
from semlens.analysis.query_embedding import (
    LABEL_TEMPLATES,
    QueryEmbedding,
    alignment,
    embed_concepts,
    null_vector,
    unit,
)
from semlens.errors import ConceptError
from semlens.progress import report
from semlens.store.reader import Database

MOST_CONCEPTS = 2000
"""Concepts of both sides: embedding them takes seconds, and a page shows them all."""
LONGEST_TEXT = 200


def divide(concepts: ConceptSet) -> tuple[ConceptSet, ConceptSet]:
    """Return the valid and the spurious concepts of a set, each named once; one may be empty.

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
    return valid, spurious


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
        divide(concepts)


def key(concept: Concept) -> str:
    """Return what two spellings of one concept have in common."""
    return " ".join(concept.name.casefold().split())


def _unique(concepts: ConceptSet, kind: Kind) -> ConceptSet:
    first: dict[str, Concept] = {}
    for concept in concepts.of_kind(kind).concepts:
        first.setdefault(key(concept), concept)
    return replace(concepts, concepts=tuple(first.values()))


RANDOM_PICTURES = 500
"""Random image concepts at least, where a set's concepts are images."""

Background = Callable[[int], Float32[np.ndarray, "k v"]]
"""From the number of images behind a concept (0: a text) to alignments with random ones."""


@dataclass(frozen=True)
class ConceptAlignment:
    """Alignment of k components with the n concepts of one side (paper, 3.4)."""

    concepts: ConceptSet
    probe: QueryEmbedding
    alignment: Float32[np.ndarray, "k n"]
    threshold: Float32[np.ndarray, "k n"]
    """What each concept must exceed; it differs between texts and images only."""
    nulls: tuple[NullDistribution, ...]

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
) -> ConceptAlignment:
    """Align components with a side's concepts.

    Parameters
    ----------
    level
        Chance that a set of as many random concepts aligns with a component.
    threshold
        Fixed least alignment, instead of what follows from ``level``.
    """
    probe = embed_concepts(database, concepts)
    images = np.array([len(concept.images) for concept in concepts.concepts])
    least = np.zeros((len(theta), len(concepts)), np.float32)
    nulls: list[NullDistribution] = []
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
        nulls.append(NullDistribution(random > bound[:, None], len(mine)))
    return ConceptAlignment(concepts, probe, alignment(theta, probe), least, tuple(nulls))


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
            names = tuple(f"random {place}" for place in range(enough))
            vectors = random_pictures(database, enough, images, target, seed)
            null = null_vector(database.embedder, templates)
            return alignment(
                theta, QueryEmbedding(vectors, names, null, database.embedder.fingerprint)
            )
        words = {key(concept): concept for concept in vocabulary.concepts if not concept.images}
        # embedded as a whole, which is remembered from one class to the next
        probe = embed_concepts(database, ConceptSet(tuple(words.values())), templates)
        return alignment(theta, probe)[:, [name not in taken for name in words]]

    return background


CHUNK = 4096
"""Components at a time."""


def chance_threshold(
    background: Float32[np.ndarray, "k v"], drawn: int, level: float
) -> Float32[np.ndarray, " k"]:
    """Return what the best of ``drawn`` random concepts exceeds with probability ``level`` at most.

    Exact, without draws: of v concepts the best of n is among the i lowest with probability
    C(i, n) / C(v, n).

    Parameters
    ----------
    background
        Alignment of each component with each concept of the background.
    level
        In (0, 1).

    Raises
    ------
    ConceptError
        If the background is not larger than the set, by so much that ``level`` can be met.
    """
    known = background.shape[1]
    lowest = np.arange(1, known + 1)
    lowest = lowest[lowest >= drawn]
    log = gammaln(lowest + 1) - gammaln(lowest - drawn + 1)
    log -= gammaln(known + 1) - gammaln(max(known - drawn, 0) + 1)
    chance = np.concatenate([np.zeros(known - len(lowest)), np.exp(np.minimum(log, 0))])
    place = int(np.searchsorted(chance, 1 - level - 1e-9))  # equality is met, up to rounding
    if drawn >= known or place >= known - 1:  # nothing lies above the largest
        raise ConceptError(
            f"A background of {known} concepts is too small for a set of {drawn} at {level:g}.",
            f"Expected at least {max(int(np.ceil(drawn / level - 1e-9)), drawn + 2)}.",
            "Give a larger background, a larger level, or a fixed threshold.",
        )
    return np.partition(background, place, axis=1)[:, place]


@dataclass(frozen=True)
class NullDistribution:
    """Random concepts of one kind, and how many of that kind a set has."""

    above: Bool[np.ndarray, "k v"]
    """Which components a random concept alone would be called aligned with."""
    drawn: int


def random_shares(
    nulls: Sequence[NullDistribution], weight: Float[np.ndarray, "k l"], draws: int, seed: int
) -> Float[np.ndarray, "draws l"]:
    """Return which share of the weight random concept sets of the same size would claim.

    Raises
    ------
    ConceptError
        If a background has fewer concepts than the set.
    """
    rng = np.random.default_rng(seed)
    sets = [np.zeros((null.above.shape[1], draws), np.float32) for null in nulls]
    for null in nulls:
        if null.drawn > null.above.shape[1]:
            raise ConceptError(
                f"A background of {null.above.shape[1]} concepts is too small for a set of "
                f"{null.drawn}.",
                "Expected more random concepts than the set has.",
                "Give a larger background.",
            )
    for place in range(draws):
        report("random concept sets", place + 1, draws)
        for null, chosen in zip(nulls, sets, strict=True):
            chosen[rng.choice(len(chosen), null.drawn, replace=False), place] = 1
    shares = np.zeros((draws, weight.shape[1]))
    for start in range(0, len(weight), CHUNK):
        part = slice(start, start + CHUNK)
        hits = sum(
            null.above[part].astype(np.float32) @ chosen
            for null, chosen in zip(nulls, sets, strict=True)
        )
        shares += (np.asarray(hits) > 0.5).T @ weight[part]
    return shares


POOL = 4000
"""Crops that random concepts are made of, at most."""


def random_pictures(
    database: Database, concepts: int, images: int, target: int, seed: int
) -> Float32[np.ndarray, "v d"]:
    """Make concepts of crops: one crop at random and those most similar to it, averaged.

    Crops of the audited class's own samples are left out, where there are others: what the
    class shows is no random concept for it.

    Parameters
    ----------
    images
        Crops behind each concept.
    """
    rng = np.random.default_rng(seed)
    places = _pool(database, target)
    if len(places) > POOL:
        places = np.sort(rng.choice(places, POOL, replace=False))
    vectors = database.crop_vectors[places].astype(np.float32)
    units = unit(vectors)
    firsts = rng.choice(len(vectors), concepts, replace=concepts > len(vectors))
    alike = np.argsort(-(units[firsts] @ units.T), axis=1, kind="stable")[:, :images]
    return np.stack([vectors[one].mean(0) for one in alike])


def _pool(database: Database, target: int) -> Int64[np.ndarray, " p"]:
    logits = database.samples["logit"].astype("Float64").fillna(-1).to_numpy(float)
    others = np.flatnonzero(logits[database.crop_samples] != target)
    return others if len(others) else np.arange(len(database.crop_samples))
