"""Interpretability measures: clarity, redundancy, polysemanticity (paper, 3.5)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32
from rich.console import Group, RenderableType
from torch import Tensor
from torch.nn import functional

from semlens.analysis.result import Result
from semlens.draw.text_table import rich_table
from semlens.settings import question
from semlens.store.reader import Database
from semlens.types import Component, Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("clarity", "redundancy", "polysemanticity")


def clarity(vectors: Float32[Tensor, "c m d"], used: Bool[Tensor, "c m"]) -> Float32[Tensor, " c"]:
    """Mean pairwise cosine of a component's example vectors (Eqs. 6 and 7).

    In [-1/(n-1), 1] for n used examples; NaN with fewer than two.
    """
    count = used.sum(1).to(vectors.dtype)
    units = functional.normalize(vectors, dim=-1) * used[..., None]
    mean = units.sum(1) / count.clamp(min=1)[:, None]
    value = count / (count - 1) * (mean.square().sum(1) - 1 / count)
    return torch.where(count >= 2, value, torch.nan)


def redundancy(theta: Float32[Tensor, "c d"], chunk: int = 2048) -> Float32[Tensor, " c"]:
    """Largest cosine of each component with another one of the set (Eqs. 8 and 9).

    NaN for a component of zeros, and if there is no other component.
    """
    units = functional.normalize(theta, dim=1)
    nonzero = units.abs().sum(1) > 0
    best = torch.full((len(theta),), torch.nan, dtype=theta.dtype)
    for start in range(0, len(theta), chunk):
        similarity = units[start : start + chunk] @ units.T
        rows = torch.arange(len(similarity))
        similarity[rows, rows + start] = -torch.inf
        similarity[:, ~nonzero] = -torch.inf
        best[start : start + chunk] = similarity.amax(1)
    return torch.where(nonzero & torch.isfinite(best), best, torch.nan)


def two_means(
    vectors: Float32[Tensor, "c m d"], used: Bool[Tensor, "c m"], rounds: int = 100
) -> Bool[Tensor, "c m"]:
    """Split each component's vectors in two by k-means, for all components in parallel.

    Lloyd's algorithm from several deterministic initial splits (by the two points that are
    farthest apart, and by the signs along the first three principal axes); the split with the
    smallest within-cluster sum of squares is returned.

    Returns
    -------
    Tensor
        True where a vector belongs to the second cluster.
    """
    weight = used.to(vectors.dtype)
    count = weight.sum(1).clamp(min=1)
    centred = vectors - (vectors * weight[..., None]).sum(1, keepdim=True) / count[:, None, None]
    centred = centred * weight[..., None]
    gram = centred @ centred.transpose(
        1, 2
    )  # distances of m points, and of their means, follow from m x m inner products
    best_split = torch.zeros_like(used)
    best_loss = torch.full(used.shape[:1], torch.inf, dtype=vectors.dtype)
    for split in _initial_splits(gram, used):
        split = _lloyd(gram, weight, split, rounds)
        loss = _within(gram, weight, split)
        better = loss < best_loss
        best_split = torch.where(better[:, None], split, best_split)
        best_loss = torch.where(better, loss, best_loss)
    return best_split & used


def _initial_splits(gram: Tensor, used: Tensor) -> list[Tensor]:
    """Return initial splits, each bool[c m]."""
    components, slots = used.shape
    square = gram.diagonal(dim1=1, dim2=2)
    distance = square[:, :, None] + square[:, None, :] - 2 * gram
    distance = torch.where(used[:, :, None] & used[:, None, :], distance, -1)
    pair = distance.flatten(1).argmax(1)
    rows = torch.arange(components)
    first, second = distance[rows, pair // slots], distance[rows, pair % slots]
    axes = torch.linalg.eigh(gram).eigenvectors[:, :, -3:]
    return [second < first, *(axis > 0 for axis in axes.unbind(2))]


def _lloyd(gram: Tensor, weight: Tensor, split: Tensor, rounds: int) -> Tensor:
    """Run Lloyd's algorithm; |x - m|² = x·x - 2 x·m + m·m, and x·x is the same for both means."""
    for _ in range(rounds):
        distance: list[Tensor] = []
        for side in (~split, split):
            member = side.to(gram.dtype) * weight
            share = member / member.sum(1, keepdim=True).clamp(min=1)
            inner = (gram @ share[:, :, None])[..., 0]  # each point times the centre
            centre = (inner * share).sum(1, keepdim=True)
            distance.append(
                torch.where(member.sum(1, keepdim=True) > 0, centre - 2 * inner, torch.inf)
            )
        updated = distance[1] < distance[0]
        if torch.equal(updated, split):
            break
        split = updated
    return split


def _within(gram: Tensor, weight: Tensor, split: Tensor) -> Tensor:
    """Return the within-cluster sum of squares: squared norms minus n·|mean|² per cluster."""
    total = (gram.diagonal(dim1=1, dim2=2) * weight).sum(1)
    for side in (~split, split):
        member = side.to(gram.dtype) * weight
        count = member.sum(1).clamp(min=1)
        total = total - torch.einsum("cm,cmn,cn->c", member, gram, member) / count
    return total


def polysemanticity(
    vectors: Float32[Tensor, "c m d"], used: Bool[Tensor, "c m"]
) -> Float32[Tensor, " c"]:
    """1 - cosine of the sums of the two k-means clusters (Eq. 10, h = 2).

    NaN with fewer than two examples. Identical examples have one sense: 0.
    """
    units = functional.normalize(vectors, dim=-1) * used[..., None]
    split = two_means(units, used)
    second = (units * split[..., None]).sum(1)
    first = units.sum(1) - second
    value = 1 - functional.cosine_similarity(first, second, dim=1)
    sizes = torch.stack([split.sum(1), (used & ~split).sum(1)])
    value = torch.where(sizes.amin(0) > 0, value, 0.0)
    return torch.where(used.sum(1) >= 2, value, torch.nan)


@dataclass(frozen=True, repr=False)
class Scores(Result):
    """The three measures per component, and their means per layer."""

    frame: pd.DataFrame
    """One row per component: layer, index, sign, examples, and the measures (NaN: none)."""

    def to_pandas(self) -> pd.DataFrame:
        """Return the table."""
        return self.frame.copy()

    def per_layer(self) -> pd.DataFrame:
        """Return the number of components and the mean of each measure, one row per layer."""
        return pd.DataFrame(
            {
                "layer": name,
                "components": len(group),
                "without_examples": int(np.count_nonzero(group["examples"] == 0)),
                **{measure: group[measure].mean() for measure in MEASURES},
            }
            for name, group in self.frame.groupby("layer", sort=False)
        )

    def extremes(self, count: int = 5) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the clearest components, clearest first, and the least clear, least clear last."""
        ranked = self.frame.dropna(subset="clarity").sort_values("clarity", ascending=False)
        keys = zip(ranked["layer"], ranked["index"], ranked["sign"], strict=True)
        ranked.insert(0, "component", [str(Component(*key)) for key in keys])
        return ranked.head(count), ranked.tail(count)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; None where a measure is undefined."""
        return {
            "layers": self.per_layer().to_dict("records"),
            "components": self.frame.to_dict("records"),
        }

    def plot(self) -> Figure:
        """Draw the distribution of each measure in each layer (paper, Fig. 5b)."""
        from semlens.draw.component_plots import scores_plot

        return scores_plot(
            {
                measure: {
                    str(name): group[measure].dropna().to_numpy(float)
                    for name, group in self.frame.groupby("layer", sort=False)
                }
                for measure in MEASURES
            }
        )

    def __rich__(self) -> RenderableType:
        """Return the means per layer, and the clearest and least clear components."""
        columns = ["component", *MEASURES]
        clear, unclear = self.extremes()
        return Group(
            rich_table(self.per_layer(), "mean per layer"),
            rich_table(clear, "clearest", columns),
            rich_table(unclear, "least clear", columns),
        )


@question(panel="Search", example="scores r18.semlens --layer layer4 --save scores.csv")
def scores(database: Database, layers: Layers = None) -> Scores:
    """Rate how interpretable components are: clarity, redundancy, polysemanticity.

    Redundancy is within a layer. The measures of a layer are computed once and kept in the
    database.
    """
    frames = [
        database.cached("scores", database.digests(name), partial(_layer_scores, database, name))
        for name in database.layer_names(layers)
    ]
    return Scores(pd.concat(frames, ignore_index=True))


def _layer_scores(database: Database, name: str, chunk: int = 512) -> pd.DataFrame:
    rows = database.rows([name])
    index, used = database.crop_index(name)
    clarities, polysemanticities = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for start in range(0, len(rows) if len(database.crop_vectors) else 0, chunk):
        block = slice(start, start + chunk)
        is_used = torch.from_numpy(used[block])
        vectors = torch.from_numpy(database.crop_vectors[index[block]]).float()
        clarities[block] = clarity(vectors, is_used).numpy()
        polysemanticities[block] = polysemanticity(vectors, is_used).numpy()
    frame = database.components.iloc[rows][["layer", "index", "sign", "examples"]]
    return frame.reset_index(drop=True).assign(
        clarity=clarities,
        redundancy=redundancy(torch.from_numpy(database.theta[rows])).numpy(),
        polysemanticity=polysemanticities,
    )
