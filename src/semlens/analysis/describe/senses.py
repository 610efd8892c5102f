"""Senses of a component: its examples split into two clusters (paper, 3.5 and Eq. 10)."""

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
"""Only components above this quantile of polysemanticity in their layer have senses."""
SMALLEST = 0.1
"""Least share of the examples for a sense, so that a single outlier does not count."""


@dataclass(frozen=True)
class Sense:
    """One cluster of a component's examples."""

    ranks: tuple[int, ...]
    """Positions of the examples, from 0, strongest first."""
    share: float
    """Share of all examples."""
    label: str | None = None
    """Filled in by callers that label senses (:func:`sense_vectors`), with its alignment."""
    alignment: float | None = None


@dataclass(frozen=True)
class Senses:
    """The two-way split of a component's examples, and whether it is meaningful."""

    senses: tuple[Sense, ...]
    """The larger one first, ties by the strongest example; empty without two clusters."""
    polysemanticity: float | None
    threshold: float | None
    """Upper quartile of polysemanticity in the layer."""

    @computed_field
    @property
    def meaningful(self) -> bool:
        """Whether the clusters count as senses: see :attr:`rule`."""
        if self.polysemanticity is None or self.threshold is None or len(self.senses) < 2:
            return False
        return self.polysemanticity >= self.threshold and self.senses[1].share >= SMALLEST

    @computed_field
    @property
    def rule(self) -> str:
        """The rule for :attr:`meaningful`, in words."""
        return (
            "Any set of examples can be split in two. The clusters count as senses if the "
            f"polysemanticity is in the top quarter of the layer and each cluster has at least "
            f"{SMALLEST:.0%} of the examples."
        )


def senses(database: Database, row: int, layer: Float32[np.ndarray, " c"] | np.ndarray) -> Senses:
    """Split a component's examples into two clusters by k-means, as for polysemanticity.

    Parameters
    ----------
    layer
        Polysemanticity of all components of its layer, from ``scores(database, [layer])``.
    """
    finite = layer[np.isfinite(layer)]
    quartile = float(np.quantile(finite, QUARTILE)) if len(finite) else None
    value = float(layer[row - database.layer(database.component(row).layer).first])
    polysemanticity = value if np.isfinite(value) else None
    units = _units(database, row)
    if len(units) < 2:
        return Senses((), polysemanticity, quartile)
    second = two_means(units[None], torch.ones(1, len(units), dtype=torch.bool))[0]
    halves = [torch.nonzero(mask)[:, 0] for mask in (~second, second)]
    if any(len(half) == 0 for half in halves):
        return Senses((), polysemanticity, quartile)
    halves.sort(key=lambda half: (-len(half), int(half[0])))
    result = tuple(Sense(tuple(half.tolist()), len(half) / len(units)) for half in halves)
    return Senses(result, polysemanticity, quartile)


def sense_vectors(database: Database, row: int, split: Senses) -> Float32[np.ndarray, "s d"]:
    """Return the mean of the unit vectors of each sense's examples."""
    units = _units(database, row)
    return np.stack([units[list(sense.ranks)].mean(0).numpy() for sense in split.senses])


def _units(database: Database, row: int) -> Float32[Tensor, "e d"]:
    crops = [example.crop for example in database.examples_of(row)]
    return functional.normalize(torch.from_numpy(database.vectors_of(crops)).float(), dim=-1)
