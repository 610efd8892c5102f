"""The examples of a component split into two clusters (paper, 3.5 and Eq. 10)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from semlens.lenses.scores import two_means
from semlens.store.reader import Database


@dataclass(frozen=True)
class Split:
    """Two clusters of a component's examples, the larger one first.

    Parameters
    ----------
    units
        float32[e d], unit vectors of the examples, strongest first.
    ranks
        Positions of each cluster's examples, from 0; ties in size by the strongest example.
    """

    units: Float32[Tensor, "e d"]
    ranks: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def polysemanticity(self) -> float:
        """1 minus the cosine between the means of the clusters (Eq. 10)."""
        first, second = (self.units[list(ranks)].mean(0) for ranks in self.ranks)
        return 1 - float(functional.cosine_similarity(first, second, dim=0))


def split_examples(database: Database, row: int) -> Split | None:
    """Split a component's examples into two clusters by k-means, as for polysemanticity.

    None if there are fewer than two examples, or all are equal.
    """
    crops = [example.crop for example in database.examples_of(row)]
    units = functional.normalize(torch.from_numpy(database.vectors_of(crops)).float(), dim=-1)
    if len(units) < 2:
        return None
    second = two_means(units[None], torch.ones(1, len(units), dtype=torch.bool))[0]
    halves = [torch.nonzero(mask)[:, 0].tolist() for mask in (~second, second)]
    if not all(halves):
        return None
    larger, smaller = sorted(halves, key=lambda half: (-len(half), half[0]))
    return Split(units, (tuple(larger), tuple(smaller)))
