"""Two senses of a component: whether a split of its examples in two is real, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from PIL import Image
from pydantic import computed_field
from rich.console import Group, RenderableType
from torch import Tensor
from torch.nn import functional

from semlens.draw.example_sheet import sheet
from semlens.draw.text_table import rich_table
from semlens.lens import lens
from semlens.lenses.arguments import AnyComponents, LabelConcepts
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.label import VOCABULARY
from semlens.lenses.labelling.vote import ExampleVote
from semlens.lenses.query_embedding import QueryEmbedding, embed_concepts
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.lenses.scores import scores, two_means
from semlens.lenses.statistics.permutation import permutation_p
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers


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


DRAWS = 199
"""Sets of examples of one sense that a split is compared with."""
TRIED = 4
"""Components whose split is tested, for each that is wanted."""
ALPHA = 0.05
"""Level at which a split is called real."""


def cluster_index(vectors: Float32[Tensor, "c m d"]) -> Float32[Tensor, " c"]:
    """Return the share of the sum of squares that is within two k-means clusters."""
    used = torch.ones(vectors.shape[:2], dtype=torch.bool)
    units = functional.normalize(vectors, dim=-1)
    second = two_means(units, used).to(units.dtype)
    centred = units - units.mean(1, keepdim=True)
    size, count = second.sum(1), vectors.shape[1]
    total = centred.square().sum((1, 2)).clamp(min=1e-12)
    between = (centred * second[..., None]).sum(1).square().sum(1) * count
    between = between / (size * (count - size)).clamp(min=1)
    return 1 - between / total


def split_p_value(vectors: Float32[np.ndarray, "m d"], draws: int = DRAWS, seed: int = 0) -> float:
    """Return the p-value of two clusters against a single one (SigClust, Liu et al. 2008).

    Sets of as many vectors are drawn from one normal distribution with the mean and the covariance
    of these, scaled to unit length. The p-value is the share of them that a split in two explains
    as well. With few vectors in many dimensions the test is conservative.
    """
    count = len(vectors)
    if count < 4:
        return 1.0
    mean = vectors.mean(0, dtype=np.float64)
    _, spread, axes = np.linalg.svd(vectors - mean, full_matrices=False)
    spread, axes = spread[: count - 1] / np.sqrt(count - 1), axes[: count - 1]
    inside = axes @ mean
    outside = np.linalg.norm(mean - inside @ axes)  # the mean has a part that no vector varies in
    drawn = np.random.default_rng(seed).normal(size=(draws, count, len(spread))) * spread + inside
    drawn = np.concatenate([drawn, np.full((draws, count, 1), outside)], 2).astype(np.float32)
    found = cluster_index(torch.from_numpy(vectors.astype(np.float32))[None])[0]
    null = cluster_index(torch.from_numpy(drawn))
    return permutation_p(int((null <= found + 1e-7).sum()), draws)


@dataclass(frozen=True)
class Sense:
    """One of two clusters of a component's examples."""

    ranks: tuple[int, ...]
    """Positions of the examples, from 0, strongest first."""
    share: float
    """Share of all examples."""
    label: str | None
    """Its best word; None without concepts."""


@dataclass(frozen=True)
class ComponentSenses:
    """The examples of a component in two clusters, and whether the split is real."""

    senses: tuple[Sense, ...]
    """The larger one first; empty if the examples are too few or equal."""
    polysemanticity: float | None
    p_value: float
    """Of two clusters against one (:func:`split_p_value`)."""

    @computed_field
    @property
    def real(self) -> bool:
        """Whether there are two senses, at a level of 5 %."""
        return self.p_value <= ALPHA


def split_component(
    database: Database, row: int, embedding: QueryEmbedding | None = None
) -> ComponentSenses:
    """Split the examples of a component in two, test the split, and name both clusters.

    Parameters
    ----------
    embedding
        The concepts that names are chosen from; None for no names.
    """
    split = split_examples(database, row)
    if split is None:
        return ComponentSenses((), None, 1.0)
    names = [None, None] if embedding is None else _best_words(database, row, split, embedding)
    senses = tuple(
        Sense(ranks, len(ranks) / len(split.units), name)
        for ranks, name in zip(split.ranks, names, strict=True)
    )
    return ComponentSenses(senses, split.polysemanticity, split_p_value(split.units.numpy()))


def most_polysemantic(
    database: Database, polysemanticity: Float64[np.ndarray, " n"], count: int
) -> tuple[list[int], list[int]]:
    """Return rows of components whose split is real, and of others, the most polysemantic first.

    A component whose examples merely vary can be as polysemantic as one with two senses, so
    ``TRIED`` times ``count`` components are tested.

    Parameters
    ----------
    polysemanticity
        Of all components, NaN where it is unknown.
    """
    order = np.argsort(np.where(np.isnan(polysemanticity), np.inf, -polysemanticity), kind="stable")
    known = order[np.isfinite(polysemanticity[order])][: TRIED * count].tolist()
    real: list[int] = []
    others: list[int] = []
    for done, row in enumerate(known):
        if len(real) == count:
            break
        report_progress("splitting examples", done, len(known))
        (real if split_component(database, row).real else others).append(row)
    return real, others


def _best_words(database: Database, row: int, split: Split, embedding: QueryEmbedding) -> list[str]:
    """Return the word that the examples of each cluster vote for."""
    layer = database.component(row).layer
    evidence = layer_evidence(database, layer, embedding, np.array([row]))
    depth = max(map(len, split.ranks))
    examples, readouts = np.full((2, depth), -1), np.zeros((2, depth), np.float32)
    for number, ranks in enumerate(split.ranks):
        examples[number, : len(ranks)] = evidence.examples[0, list(ranks)]
        readouts[number, : len(ranks)] = evidence.readouts[0, list(ranks)]
    halves = replace(
        evidence, examples=examples, readouts=readouts, counts=np.array([*map(len, split.ranks)]),
        reference=None, reference_readouts=None, in_reference=None, population=None,
        background=evidence.images_to_compare,
    )  # fmt: skip
    return [embedding.names[best] for best in ExampleVote().scores(halves).argmax(1)]


@dataclass(frozen=True, eq=False, repr=False)
class SenseTable(Result):
    """The examples of components in two clusters, each with its best word.

    Parameters
    ----------
    frame
        A row per cluster, the larger one first: ``component``, ``polysemanticity``, ``p_value`` of
        the split, ``cluster`` (1 or 2), ``share`` of the examples, ``label``, and ``ranks`` of the
        examples from 0.
    """

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    frame: pd.DataFrame
    database: Database

    @property
    def split(self) -> int:
        """Number of components whose split is real at a level of 5 %."""
        first = self.frame.drop_duplicates("component")
        return int(np.count_nonzero(first["p_value"] <= ALPHA))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {"level": ALPHA, "split": self.split, "senses": self.frame.to_dict("records")}

    @property
    def summary(self) -> str:
        """How many components have two clusters, in a sentence."""
        count = self.frame["component"].nunique()
        return (
            f"The examples of {self.split} of {count} components are in two clusters "
            f"(p <= {ALPHA}, for each by itself). There may be more."
        )

    def plot(self, columns: int = 10) -> Image.Image:
        """Draw the examples of each cluster, one row each."""
        rows = self.database.rows_of(self.frame["component"].tolist())
        captions = [
            f"{one['label']} ({one['share']:.0%}), p {one['p_value']:.3f}"
            for one in self.frame.to_dict("records")
        ]
        return sheet(self.database, rows, columns, captions, ranks=self.frame["ranks"].tolist())

    def __rich__(self) -> RenderableType:
        """Return the table and the summary."""
        columns = ["component", "polysemanticity", "p_value", "cluster", "share", "label"]
        return Group(rich_table(self.frame, "senses", columns), self.summary)


@lens(
    "embedder",
    group="Search",
    command="labels senses",
    example="labels senses r18.semlens --layer layer4 --top 10",
)
def senses(
    database: Database,
    *,
    components: Annotated[
        AnyComponents,
        setting("Components, repeated or separated by commas [highest polysemanticity]."),
    ] = (),
    concepts: LabelConcepts = VOCABULARY,
    layers: Layers = None,
    top: Annotated[
        int,
        setting(
            "Components of highest polysemanticity, if none are named; two senses first.", ge=1
        ),
    ] = 10,
    templates: Sequence[str] | None = None,
) -> SenseTable:
    """Split the examples of components in two, test whether the split is real, and label both.

    Any set of examples can be split in two. The p-value compares the split with those of examples
    of one cluster (:func:`split_p_value`). It is below 0.05 for about 5 % of the components with
    one sense if their examples are normally distributed; on images of one class, 3 to 14 % were
    measured. Whether there are two senses or more is not tested.

    Parameters
    ----------
    components
        By default the ``top`` ones by polysemanticity (paper, Eq. 10): of four times as many,
        those with two senses come first.

    Raises
    ------
    LayerError
        If there is no such component.
    """
    embedding = embed_concepts(database, concepts, templates)
    named = database.rows_of(components)
    chosen = sorted({database.component(row).layer for row in named}) if named else layers
    frame = scores(database, chosen).to_pandas()
    measured = np.full(database.manifest.rows, np.nan)
    measured[np.concatenate([database.rows([n]) for n in database.layer_names(chosen)])] = frame[
        "polysemanticity"
    ]
    if not named:
        real, others = most_polysemantic(database, measured, top)
        named = [*real, *others][:top]
    table = [
        {
            "component": str(database.component(row)),
            "polysemanticity": measured[row],
            "p_value": found.p_value,
            "cluster": number,
            "share": sense.share,
            "label": sense.label,
            "ranks": list(sense.ranks),
        }
        for row in named
        for found in (split_component(database, row, embedding),)
        for number, sense in enumerate(found.senses, start=1)
    ]
    names = ["component", "polysemanticity", "p_value", "cluster", "share", "label", "ranks"]
    return SenseTable(pd.DataFrame(table, columns=names), database)
