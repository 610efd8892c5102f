"""Alignment of components with the valid or spurious concepts of an audit, against chance.

The larger a concept set, the larger its best alignment by chance. A component therefore counts as
aligned with a set of n concepts only above a quantile of the best of n random concepts, drawn from
a background vocabulary. This is an addition of semlens: the paper compares with zero (3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy.special import gammaln

from semlens.analysis.classes import true_classes
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
from semlens.progress import report_progress
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


def concept_key(concept: Concept) -> str:
    """Return a concept's name without differences of case and spacing."""
    return " ".join(concept.name.casefold().split())


def _unique(concepts: ConceptSet, kind: Kind) -> ConceptSet:
    """Return the concepts of a kind; of several with one key, the first."""
    first: dict[str, Concept] = {}
    for concept in concepts.of_kind(kind).concepts:
        first.setdefault(concept_key(concept), concept)
    return replace(concepts, concepts=tuple(first.values()))


RANDOM_PICTURES = 500
"""Least number of random concepts by image."""

Background = Callable[[int], Float32[np.ndarray, "k v"]]
"""Maps a number of images per concept (0: texts) to alignments with random concepts."""


@dataclass(frozen=True)
class ConceptAlignment:
    """Alignment of k components with the n concepts of one side (paper, 3.4)."""

    concepts: ConceptSet
    query: QueryEmbedding
    alignment: Float32[np.ndarray, "k n"]
    threshold: Float32[np.ndarray, "k n"]
    """What each alignment must exceed; it differs between texts and images only."""
    nulls: tuple[NullDistribution, ...]

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
    theta: Float32[np.ndarray, "k d"],
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
    image_counts = np.array([len(concept.images) for concept in concepts.concepts])
    thresholds = np.zeros((len(theta), len(concepts)), np.float32)
    nulls: list[NullDistribution] = []
    for count in np.unique(image_counts):
        positions = np.flatnonzero(image_counts == count)
        random = background(int(count))
        if threshold is None:
            # texts and images share the level; a threshold is never below the paper's zero
            share = level * len(positions) / len(concepts)
            bound = np.maximum(chance_threshold(random, len(positions), share), np.float32(0))
        else:
            bound = np.full(len(theta), threshold, np.float32)
        thresholds[:, positions] = bound[:, None]
        nulls.append(NullDistribution(random > bound[:, None], len(positions)))
    return ConceptAlignment(concepts, query, alignment(theta, query), thresholds, tuple(nulls))


def make_background(
    theta: Float32[np.ndarray, "k d"],
    database: Database,
    target: int,
    vocabulary: ConceptSet,
    sides: Sequence[ConceptSet],
    level: float,
    seed: int,
) -> Background:
    """Return a function for alignments with random concepts: other words, or other images."""
    templates = next((s.templates for s in sides if s.templates), None) or LABEL_TEMPLATES
    audited = {concept_key(concept) for side in sides for concept in side.concepts}
    count = max(RANDOM_PICTURES, int(2 * max(map(len, sides)) / level))

    @cache
    def background(images: int) -> Float32[np.ndarray, "k v"]:
        if images:
            names = tuple(f"random {i}" for i in range(count))
            vectors = random_pictures(database, count, images, target, seed)
            null = null_vector(database.embedder, templates)
            return alignment(
                theta, QueryEmbedding(vectors, names, null, database.embedder.fingerprint)
            )
        words = {
            concept_key(concept): concept for concept in vocabulary.concepts if not concept.images
        }
        # all words are embedded, so that the cached vectors serve every class
        query = embed_concepts(database, ConceptSet(tuple(words.values())), templates)
        return alignment(theta, query)[:, [word not in audited for word in words]]

    return background


CHUNK = 4096
"""Components per block of array code."""


def chance_threshold(
    background: Float32[np.ndarray, "k v"], drawn: int, level: float
) -> Float32[np.ndarray, " k"]:
    """Return what the best of ``drawn`` random concepts exceeds with probability at most ``level``.

    Exact, without sampling: the best of n out of v concepts is among the i lowest with
    probability C(i, n) / C(v, n).

    Parameters
    ----------
    background
        Alignment of k components with the v concepts of the background.
    level
        In (0, 1).

    Raises
    ------
    ConceptError
        If the background is too small for the set to reach ``level``.
    """
    size = background.shape[1]
    lowest = np.arange(1, size + 1)
    lowest = lowest[lowest >= drawn]
    # C(i, n) / C(v, n) by logarithms of factorials, for the binomials overflow
    log = gammaln(lowest + 1) - gammaln(lowest - drawn + 1)
    log -= gammaln(size + 1) - gammaln(max(size - drawn, 0) + 1)
    cumulative = np.concatenate([np.zeros(size - len(lowest)), np.exp(np.minimum(log, 0))])
    order = int(np.searchsorted(cumulative, 1 - level - 1e-9))  # equality counts, up to rounding
    if drawn >= size or order >= size - 1:  # nothing is above the largest
        raise ConceptError(
            f"A background of {size} concepts is too small for a set of {drawn} at {level=:g}.",
            f"Expected at least {max(int(np.ceil(drawn / level - 1e-9)), drawn + 2)}.",
            "Use a larger background, a larger level, or a fixed threshold.",
        )
    return np.partition(background, order, axis=1)[:, order]


@dataclass(frozen=True)
class NullDistribution:
    """Random concepts, texts or images, and how many of that kind a set has."""

    above: Bool[np.ndarray, "k v"]
    """Whether each of v random concepts exceeds the threshold of each of k components."""
    drawn: int


def random_shares(
    nulls: Sequence[NullDistribution], weight: Float[np.ndarray, "k l"], draws: int, seed: int
) -> Float[np.ndarray, "draws l"]:
    """Return the share of the weight that random concept sets of the same size claim.

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
                "Use a larger background.",
            )
    for draw in range(draws):
        report_progress("random concept sets", draw + 1, draws)
        for null, members in zip(nulls, sets, strict=True):
            members[rng.choice(len(members), null.drawn, replace=False), draw] = 1
    shares = np.zeros((draws, weight.shape[1]))
    for start in range(0, len(weight), CHUNK):
        block = slice(start, start + CHUNK)
        # [components, draws]: how many members of each random set exceed the threshold
        hits = sum(
            null.above[block].astype(np.float32) @ members
            for null, members in zip(nulls, sets, strict=True)
        )
        shares += (np.asarray(hits) > 0.5).T @ weight[block]
    return shares


POOL = 4000
"""Largest number of crops that random concepts are made of."""


def random_pictures(
    database: Database, concepts: int, images: int, target: int, seed: int
) -> Float32[np.ndarray, "v d"]:
    """Return random concepts by image: the mean of a random crop and those most similar to it.

    Crops from samples of the audited class are excluded where there are others, since they show
    the class itself.

    Parameters
    ----------
    images
        Crops per concept.
    """
    rng = np.random.default_rng(seed)
    crops = np.flatnonzero(true_classes(database)[database.crop_samples] != target)
    if len(crops) == 0:
        crops = np.arange(len(database.crop_samples))
    if len(crops) > POOL:
        crops = np.sort(rng.choice(crops, POOL, replace=False))
    vectors = database.crop_vectors[crops].astype(np.float32)
    units = unit(vectors)
    anchors = rng.choice(len(vectors), concepts, replace=concepts > len(vectors))
    nearest = np.argsort(-(units[anchors] @ units.T), axis=1, kind="stable")[:, :images]
    return np.stack([vectors[group].mean(0) for group in nearest])
