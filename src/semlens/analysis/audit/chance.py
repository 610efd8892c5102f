"""How well random concepts align: the yardstick of an audit's verdicts.

The larger a concept set, the larger the best alignment that chance gives. So a component counts as
aligned with a set of n concepts only above the quantile of the best of n random ones, drawn from a
background vocabulary. Our addition: the paper compares with zero (3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy.special import gammaln

from semlens.analysis.probe import unit
from semlens.errors import ConceptError
from semlens.progress import report
from semlens.store.reader import Database

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
class Null:
    """Random concepts of one kind, and how many of that kind a set has."""

    above: Bool[np.ndarray, "k v"]
    """Which components a random concept alone would be called aligned with."""
    drawn: int


def random_shares(
    nulls: Sequence[Null], weight: Float[np.ndarray, "k l"], draws: int, seed: int
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
