"""The senses of a component: its examples in two clusters (paper, 3.5 and Eq. 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import computed_field
from torch import Tensor
from torch.nn import functional

from semlens.analysis.scores import two_means
from semlens.store.reader import Database

QUARTILE = 0.75
"""Only the most polysemantic quarter of a layer is said to have senses."""
SMALLEST = 0.1
"""Least share of the examples that is called a sense: a lone outlier is none."""


@dataclass(frozen=True)
class Sense:
    """One cluster of a component's examples."""

    ranks: tuple[int, ...]
    """Ranks of the examples, from 0."""
    share: float
    """Of all examples."""
    label: str | None = None
    """For whoever names it (:func:`sense_vectors`), with its alignment."""
    alignment: float | None = None


@dataclass(frozen=True)
class Senses:
    """The two-way split of a component's examples, and whether it means something."""

    senses: tuple[Sense, ...]
    """The larger one first, of equal ones that of the strongest example; none without two
    clusters."""
    polysemanticity: float | None
    threshold: float | None
    """Upper quartile of polysemanticity in the layer."""

    @computed_field
    @property
    def meaningful(self) -> bool:
        """Whether this is a split to speak of: see :attr:`rule`."""
        if self.polysemanticity is None or self.threshold is None or len(self.senses) < 2:
            return False
        return self.polysemanticity >= self.threshold and self.senses[1].share >= SMALLEST

    @computed_field
    @property
    def rule(self) -> str:
        """When a split counts as senses, in words."""
        return (
            "Any set of examples can be split in two. The halves count as senses when the "
            f"polysemanticity is in the top quarter of the layer and each half has at least "
            f"{SMALLEST:.0%} of the examples."
        )


def senses(database: Database, row: int, layer: Float32[np.ndarray, " c"] | np.ndarray) -> Senses:
    """Split a component's examples in two by k-means, as its polysemanticity does.

    Parameters
    ----------
    layer
        Polysemanticity of all components of its layer: ``scores(database, [layer])``.
    """
    rated = layer[np.isfinite(layer)]
    threshold = float(np.quantile(rated, QUARTILE)) if len(rated) else None
    value = float(layer[row - database.layer(database.component(row).layer).first])
    polysemanticity = value if np.isfinite(value) else None
    units = _units(database, row)
    if len(units) < 2:
        return Senses((), polysemanticity, threshold)
    second = two_means(units[None], torch.ones(1, len(units), dtype=torch.bool))[0]
    halves = [torch.nonzero(side)[:, 0] for side in (~second, second)]
    if any(len(half) == 0 for half in halves):
        return Senses((), polysemanticity, threshold)
    halves.sort(key=lambda half: (-len(half), int(half[0])))
    found = tuple(Sense(tuple(half.tolist()), len(half) / len(units)) for half in halves)
    return Senses(found, polysemanticity, threshold)


def sense_vectors(database: Database, row: int, found: Senses) -> Float32[np.ndarray, "s d"]:
    """Return the mean of the unit vectors of each sense's examples."""
    units = _units(database, row)
    return np.stack([units[list(sense.ranks)].mean(0).numpy() for sense in found.senses])


def _units(database: Database, row: int) -> Float32[Tensor, "e d"]:
    crops = [example.crop for example in database.examples_of(row)]
    return functional.normalize(torch.from_numpy(database.vectors_of(crops)).float(), dim=-1)
