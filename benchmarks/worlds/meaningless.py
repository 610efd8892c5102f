"""Worlds in which there is nothing to find: relevance, alignments and values without a meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semlens.lenses.audit.class_contrast import LayerExcess, excess_shares, remove_own, standardised

VALUES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(size=shape),
    "t with 3 d.f.": lambda rng, shape: rng.standard_t(3, size=shape),
    "gamma with shape 4": lambda rng, shape: rng.gamma(4, size=shape),
}
"""Distributions of one value per class."""
TAILS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "log-normal": lambda rng, shape: np.exp(0.8 * rng.normal(size=shape)),
    "pareto": lambda rng, shape: 1 + rng.pareto(1.0, size=shape),
}
"""Factors of relevance; with ``pareto``, a few components have most of it."""
CENTRES = 10
"""Clusters of components in a layer."""


@dataclass(frozen=True)
class World:
    """Components of several layers, in clusters, for c classes and q concepts.

    Parameters
    ----------
    layers
        The classes' excess relevance, without what their own words explain.
    alignments
        With the concepts, standardised in each layer: [n q].
    theta
        Vectors of the components: [n d].
    shares
        Each component's share of a class's relevance in its layer: [n c].
    """

    layers: list[LayerExcess]
    alignments: list[np.ndarray]
    theta: list[np.ndarray]
    shares: list[np.ndarray]


def unit(values: np.ndarray) -> np.ndarray:
    """Scale rows to unit length."""
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def meaningless_world(
    rng: np.random.Generator,
    classes: int,
    concepts: int = 10,
    dim: int = 16,
    sizes: tuple[int, ...] = (32, 48),
    topic: float = 0.0,
    tail: str = "log-normal",
) -> World:
    """Make components in clusters, classes that rely on some, concepts in random directions.

    Components of one cluster have similar vectors and similar relevance, as in real layers.

    Parameters
    ----------
    topic
        Share of the concepts' directions that they have in common.
    tail
        One of ``TAILS``.
    """
    tastes = rng.normal(size=(classes, dim))
    directions = np.sqrt(1 - topic) * rng.normal(size=(concepts, dim))
    directions += np.sqrt(topic) * rng.normal(size=dim)
    words = tastes[:, None] + rng.normal(size=(classes, 4, dim))
    excess: list[np.ndarray] = []
    own: list[np.ndarray] = []
    world = World([], [], [], [])
    for n in sizes:
        centres = rng.normal(size=(CENTRES, dim))
        theta = centres[rng.integers(0, CENTRES, n)] + 0.4 * rng.normal(size=(n, dim))
        shares = np.exp(3 * unit(theta) @ unit(tastes).T) * TAILS[tail](rng, (n, classes))
        shares /= shares.sum(0)
        others = (shares.sum(1, keepdims=True) - shares) / (classes - 1)
        theta = unit(theta + 2)  # what all images have in common
        excess.append(excess_shares(shares, others))
        own.append(standardised(theta @ unit(words).reshape(-1, dim).T))
        world.alignments.append(standardised(theta @ unit(directions).T))
        world.theta.append(theta)
        world.shares.append(shares)
    by_class = np.split(np.concatenate(own), classes, axis=1)
    remaining, found = remove_own(np.concatenate(excess), by_class)
    bounds = np.cumsum(sizes)[:-1]
    for first, e, u in zip(
        (0, *bounds), np.split(remaining, bounds), np.split(found, bounds), strict=True
    ):
        world.layers.append(LayerExcess(np.arange(first, first + len(e)), e, u))
    return world
