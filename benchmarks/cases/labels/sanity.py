"""Sanity checks of measures: whether a worse extent of the right word scores less.

Oikarinen et al., Evaluating Neuron Explanations: A Unified Framework with Sanity Checks, 2025: half
of the labels missing, and as many wrong ones extra. A measure that does not notice either prefers
words that are too narrow, or too wide.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.cases.labels.measures import Measure

FEWEST = 4
"""Fewest images of a word that is degraded."""


def degraded(
    extent: Bool[np.ndarray, " t"], draw: np.random.Generator
) -> tuple[Bool[np.ndarray, " t"], Bool[np.ndarray, " t"]]:
    """Return an extent without half of its images, and with as many wrong ones as it has.

    At most as many as there are.
    """
    inside, outside = draw.permutation(np.flatnonzero(extent)), np.flatnonzero(~extent)
    missing, extra = extent.copy(), extent.copy()
    missing[inside[: len(inside) // 2]] = False
    extra[draw.permutation(outside)[: len(inside)]] = True
    return missing, extra


def as_similarity(
    similarity: Float[np.ndarray, " t"],
    extent: Bool[np.ndarray, " t"],
    worse: Bool[np.ndarray, " t"],
    draw: np.random.Generator,
) -> Float[np.ndarray, " t"]:
    """Return the similarity with a word as if it had the worse extent.

    Images that lose the word are as similar to it as a random image without it, and those that
    gain it as a random image with it.
    """
    changed = similarity.copy()
    for gains in (False, True):
        places = np.flatnonzero((worse != extent) & (worse == gains))
        changed[places] = draw.choice(similarity[extent == gains], len(places))
    return changed


def drops(
    measure: Measure,
    readouts: Float[np.ndarray, " t"],
    extent: Bool[np.ndarray, " t"],
    seed: int,
    similarity: Float[np.ndarray, " t"] | None = None,
) -> tuple[bool, bool] | None:
    """Return whether a unit's score drops under missing and under extra labels.

    Parameters
    ----------
    extent
        bool[t], which images show a right word.
    similarity
        float[t], similarity with the right word, for a measure of similarities.

    Returns
    -------
    tuple or None
        None if the word has too few images.
    """
    if extent.sum() < FEWEST or extent.all():
        return None
    draw = np.random.default_rng(seed)
    columns = [extent, *degraded(extent, draw)]
    if similarity is not None:
        columns = [as_similarity(similarity, extent, one, draw) for one in columns]
    right, missing, extra = measure(readouts, np.stack(columns, 1).astype(np.float64))
    return bool(missing < right), bool(extra < right)
