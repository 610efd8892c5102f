"""Random concepts, which the concepts of an audit are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy.special import gammaln

from semlens.errors import ConceptError
from semlens.lenses.centring import centred_vectors
from semlens.lenses.classes import true_classes
from semlens.lenses.concepts import ConceptSet, concept_key
from semlens.lenses.query_embedding import (
    LABEL_TEMPLATES,
    QueryEmbedding,
    alignment,
    embed_concepts,
    null_vector,
    unit,
)
from semlens.lenses.statistics.permutation import permutation_p
from semlens.progress import report_progress
from semlens.store.reader import Database

RANDOM_PICTURES = 500
"""Least number of random concepts by image."""


@dataclass(frozen=True)
class Theta:
    """Concept vectors of k components, as they are and without the mean of their layer's crops."""

    raw: Float32[np.ndarray, "k d"]
    centred: Float32[np.ndarray, "k d"]

    @classmethod
    def load(cls, database: Database, rows: Int64[np.ndarray, " k"]) -> Theta:
        """Read the vectors of components."""
        return cls(database.theta[rows], centred_vectors(database, rows))

    def align(
        self, query: QueryEmbedding
    ) -> tuple[Float32[np.ndarray, "k q"], Float32[np.ndarray, "k q"]]:
        """Return the alignments of both kinds of vectors with concepts."""
        return alignment(self.raw, query), alignment(self.centred, query)


Background = Callable[[int], tuple[Float32[np.ndarray, "k v"], Float32[np.ndarray, "k v"]]]
"""Maps a number of images per concept (0: texts) to both alignments with random concepts."""


def make_background(
    theta: Theta,
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
    def background(images: int) -> tuple[np.ndarray, np.ndarray]:
        if images:
            names = tuple(f"random {i}" for i in range(count))
            vectors = random_pictures(database, count, images, target, seed)
            null = null_vector(database.embedder, templates)
            fingerprint = database.embedder.fingerprint
            return theta.align(QueryEmbedding(vectors, names, null, fingerprint))
        words = {
            concept_key(concept): concept for concept in vocabulary.concepts if not concept.images
        }
        # all words are embedded, so that the cached vectors serve every class
        query = embed_concepts(database, ConceptSet(tuple(words.values())), templates)
        others = np.array([word not in audited for word in words], bool)
        raw, centred = theta.align(query)
        return raw[:, others], centred[:, others]

    return background


CHUNK = 4096
"""Components per block of array code."""


def chance_threshold(
    background: Float32[np.ndarray, "k v"], drawn: int, level: float
) -> Float32[np.ndarray, " k"]:
    """Return what the best of ``drawn`` random concepts exceeds with probability at most ``level``.

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
    order = background.shape[1] - 1 - _concepts_above(background.shape[1], drawn, level)
    return np.partition(background, order, axis=1)[:, order]


def _concepts_above(size: int, drawn: int, level: float) -> int:
    """Return how many of ``size`` random concepts exceed the threshold for ``drawn`` of them.

    Exact, without sampling: the best of n out of v concepts is among the i lowest with
    probability C(i, n) / C(v, n).
    """
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
    return size - 1 - order


@dataclass(frozen=True)
class ConceptPool:
    """Random and audited concepts of one kind, texts or images, and which components they match.

    Random sets are drawn from both together. If they came from the random concepts alone, which
    the threshold is derived from, the audited set would match more often than they do even where
    it is random itself.
    """

    above: Bool[np.ndarray, "k v"]
    """Whether each concept matches each of k components; the audited concepts are last."""
    listed: int
    """Number of audited concepts, which is also the size of a random set."""

    @property
    def matched(self) -> Bool[np.ndarray, " k"]:
        """Whether an audited concept matches each component."""
        return np.any(self.above[:, self.above.shape[1] - self.listed :], axis=1)


def pool_concepts(
    random: Float32[np.ndarray, "k v"], listed: Float32[np.ndarray, "k n"], level: float
) -> ConceptPool:
    """Pool concepts; those match a component that are among its best and have positive alignment.

    So many are its best that the best listed concept is one of them just if it exceeds
    :func:`chance_threshold` of the random ones.
    """
    pool = np.concatenate([random, listed], axis=1)
    rank = pool.shape[1] - 1 - _concepts_above(random.shape[1], listed.shape[1], level)
    least = np.partition(pool, rank, axis=1)[:, rank, None]
    return ConceptPool((pool >= least) & (pool > 0), listed.shape[1])


def random_shares(
    pools: Sequence[ConceptPool], weight: Float[np.ndarray, "k l"], draws: int, seed: int
) -> Float[np.ndarray, "draws l"]:
    """Return the share of the weight that random concept sets of the same size claim."""
    rng = np.random.default_rng(seed)
    sets = [np.zeros((pool.above.shape[1], draws), np.float32) for pool in pools]
    for draw in range(draws):
        report_progress("random concept sets", draw + 1, draws)
        for pool, members in zip(pools, sets, strict=True):
            members[rng.choice(len(members), pool.listed, replace=False), draw] = 1
    shares = np.zeros((draws, weight.shape[1]))
    for start in range(0, len(weight), CHUNK):
        block = slice(start, start + CHUNK)
        # [components, draws]: how many members of each random set match
        hits = sum(
            pool.above[block].astype(np.float32) @ members
            for pool, members in zip(pools, sets, strict=True)
        )
        shares += (np.asarray(hits) > 0.5).T @ weight[block]
    return shares


@dataclass(frozen=True)
class ChanceComparison:
    """Shares of the weight that the audited concepts claim, and that random sets do.

    Parameters
    ----------
    share, expected
        The share of each of l columns of weights, and the mean over the random sets.
    p_value
        Share of the random sets that claim as much; the audited one counts among them, as the
        observed value does in a permutation test.
    """

    share: Float[np.ndarray, " l"]
    expected: Float[np.ndarray, " l"]
    p_value: Float[np.ndarray, " l"]


def compare_with_random(
    pools: Sequence[ConceptPool], weight: Float[np.ndarray, "k l"], draws: int, seed: int
) -> ChanceComparison:
    """Compare the weight that the audited concepts claim with that of random sets of their size."""
    claimed = np.any([pool.matched for pool in pools], axis=0) @ weight
    random = random_shares(pools, weight, draws, seed)
    p_value = permutation_p((random >= claimed - 1e-12).sum(0), draws)
    return ChanceComparison(claimed, random.mean(axis=0), p_value)


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
