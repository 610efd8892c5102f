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

from semlens.draw.text_table import rich_table
from semlens.figures import FigureSpec, histograms
from semlens.lens import lens
from semlens.lenses.result import Result, Section
from semlens.store.reader import Database
from semlens.types import Component, Layers

if TYPE_CHECKING:
    pass

MEASURES = ("clarity", "redundancy", "polysemanticity")
SPLIT = "exchange"
"""How examples are split; part of the key of saved scores, which change with it."""


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


def two_means(vectors: Float32[Tensor, "c m d"], used: Bool[Tensor, "c m"]) -> Bool[Tensor, "c m"]:
    """Split each component's vectors in two by k-means, for all components in parallel.

    From many deterministic initial splits, single vectors change sides as long as the
    within-cluster sum of squares falls (Hartigan and Wong, 1979). That leaves far fewer local
    optima than Lloyd's algorithm, whose optima it can always improve or keep. The best split is
    returned.

    Returns
    -------
    Tensor
        True where a vector belongs to the second cluster.
    """
    weight = used.to(vectors.dtype)
    count = weight.sum(1, keepdim=True).clamp(min=1)
    centred = vectors - (vectors * weight[..., None]).sum(1, keepdim=True) / count[..., None]
    centred = centred * weight[..., None]
    # the sums over m vectors follow from their m x m inner products
    gram = centred @ centred.transpose(1, 2)
    splits, objective = _exchange(gram, used, _initial_splits(gram, used))
    best = objective.argmax(1)
    return splits[torch.arange(len(splits)), best]


STARTS, AXES = 16, 8
"""Initial splits by a vector and the one farthest from it (at most), and by principal axes."""


def _initial_splits(gram: Tensor, used: Tensor) -> Bool[Tensor, "c s m"]:
    """Return initial splits, made of used vectors only."""
    slots = gram.shape[1]
    square = gram.diagonal(dim1=1, dim2=2)
    distance = square[:, :, None] + square[:, None, :] - 2 * gram
    distance = torch.where(used[:, :, None] & used[:, None, :], distance, -1)
    one = torch.arange(slots)[:: -(-slots // STARTS)]
    other = distance[:, one].argmax(2, keepdim=True).expand(-1, -1, slots)
    by_pair = distance.gather(1, other) < distance[:, one]
    axes = torch.linalg.eigh(gram).eigenvectors[:, :, -AXES:]
    return torch.cat([by_pair, axes.transpose(1, 2) > 0], 1) & used[:, None]


def _exchange(
    gram: Tensor, used: Tensor, split: Bool[Tensor, "c s m"]
) -> tuple[Bool[Tensor, "c s m"], Float32[Tensor, "c s"]]:
    """Move the best vector to the other side until no move helps; return splits and objectives.

    For centred vectors and sides of a and b vectors, one of which has the sum S, the
    within-cluster sum of squares is a constant minus (a + b) times |S|² / (a b): the objective.
    """
    square, total = gram.diagonal(dim1=1, dim2=2)[:, None], used.sum(1)[:, None, None]

    def objective(sum_square: Tensor, size: Tensor) -> Tensor:
        return torch.where((size > 0) & (size < total), sum_square / (size * (total - size)), 0)

    member = split.to(gram.dtype)
    inner = member @ gram  # of each vector with S
    sum_square, size = (inner * member).sum(2, keepdim=True), member.sum(2, keepdim=True)
    value = objective(sum_square, size)
    for _ in range(2 * used.shape[1]):
        step = torch.where(split, -1, 1)
        moved = objective(sum_square + 2 * step * inner + square, size + step)
        best, index = torch.where(used[:, None], moved, 0).max(2, keepdim=True)
        # more than rounding errors, so that no split recurs
        better = best > value + 1e-6 * square.amax(2, keepdim=True)
        if not better.any():
            break
        change = step.gather(2, index) * better
        sum_square += change.abs() * (square.expand_as(inner) + 2 * step * inner).gather(2, index)
        inner += change * gram.gather(1, index.expand_as(inner))
        size += change
        split = split ^ (better & (torch.arange(split.shape[2]) == index))
        value = torch.where(better, best, value)
    return split, value[..., 0]


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

    def figure(self) -> FigureSpec:
        """Return the distribution of each measure in each layer (paper, Fig. 5b)."""
        panels = [
            histograms(
                "",
                {
                    str(name): group[measure].to_numpy(float)
                    for name, group in self.frame.groupby("layer", sort=False)
                },
                measure,
            )
            for measure in MEASURES
        ]
        return FigureSpec("How interpretable the components of each layer are", panels)

    def section(self, target: str | None = None) -> Section:
        """Return the means of each layer, in sentences."""
        sentences = [
            f"{row['layer']}: clarity {row['clarity']:.3f}, redundancy {row['redundancy']:.3f}, "
            f"polysemanticity {row['polysemanticity']:.3f} on average over "
            f"{row['components'] - row['without_examples']} components."
            for row in self.per_layer().to_dict("records")
        ]
        return Section(
            sentences, self.figure(), self.to_pandas(),
            "A polysemantic component need not have several senses: its examples may only vary.",
        )  # fmt: skip

    def __rich__(self) -> RenderableType:
        """Return the means per layer, and the clearest and least clear components."""
        columns = ["component", *MEASURES]
        clear, unclear = self.extremes()
        return Group(
            rich_table(self.per_layer(), "mean per layer"),
            rich_table(clear, "clearest", columns),
            rich_table(unclear, "least clear", columns),
        )


@lens(group="Search", example="scores r18.semlens --layer layer4 --save scores.csv")
def scores(database: Database, layers: Layers = None) -> Scores:
    """Rate how interpretable components are: clarity, redundancy, polysemanticity.

    Redundancy is within a layer. The measures of a layer are computed once and kept in the
    database.
    """
    frames = [
        database.cached(
            "scores", [*database.digests(name), SPLIT], partial(_layer_scores, database, name)
        )
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
