"""Noise: alignments of vectors that mean nothing, which a label or a search hit must exceed.

Any vector is nearest to some concept of a list, and some component is nearest to any query. What
such a nearest pair aligns by chance is measured per database and layer, on *mixtures*: vectors
aggregated, like those of components, from as many crops drawn at random (with replacement) from
the distinct crops of the layer. It is an addition of semlens; the paper's threshold, 0.025, was
chosen for its embedder.

- A **label** must exceed the 0.95 quantile, over mixtures, of the largest alignment with any
  concept of the list. A component whose examples are random crops gets a label with a probability
  of 5 %. Examples that are alike in colour only, as in an untrained network, exceed it far more
  often: their labels are mixed (:mod:`semlens.lenses.labelling.mixed`) or have a question mark.
- For a **search hit**, see :mod:`semlens.lenses.search.noise`.

To exceed this threshold means to be above noise: that the concept describes the examples better
than random crops. It does not mean that the concept is the right one, nor does a smaller alignment
mean that no concept fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float16, Float32, Int64

from semlens.lenses.centring import layer_crops
from semlens.lenses.query_embedding import QueryEmbedding, alignment_blocks
from semlens.store.reader import Database
from semlens.streaming.aggregate import aggregate_vectors

T = TypeVar("T")

LEVEL = 0.05
"""Probability that a component without a meaning gets a label; share of false search hits."""
MIXTURES = 4096
"""Mixtures per layer and number of examples."""
POOL = 8192
"""Largest number of distinct crops of a layer that are drawn from."""
SEED = 0
_CROPS = 8192
"""Crops that are aggregated in one step."""
_COUNTS = np.array([1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1200, 2000, 5000])
"""Numbers of crops of a mixture. A component is compared with the largest that it has examples
for: to have fewer crops raises the threshold."""
_SAVED: WeakKeyDictionary[Database, dict[tuple[object, ...], Any]] = WeakKeyDictionary()
"""What was computed for an opened database; mixtures are also saved in it."""


def label_thresholds(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    embedding: QueryEmbedding,
    threshold: float | None = None,
    *,
    counts: Int64[np.ndarray, " n"] | None = None,
) -> Float32[np.ndarray, " n"]:
    """Return the alignment that each component's label must exceed to be above noise.

    Parameters
    ----------
    rows
        The components; 0 for those without examples, which have no label.
    embedding
        The concepts that labels are chosen from.
    threshold
        A fixed threshold instead, the same for all components.
    counts
        Numbers of examples, for vectors of a part of each component's examples.
    """
    if threshold is not None:
        return np.full(len(rows), threshold, np.float32)
    saved = _SAVED.setdefault(database, {})
    thresholds = np.zeros(len(rows), np.float32)
    for layer, count, positions in component_groups(database, rows, counts):
        key = "label", layer, count, embedding.digest
        if key not in saved:
            vectors = mixtures(database, layer, count).astype(np.float32)
            largest = [values.max(1) for _, values in alignment_blocks(vectors, embedding)]
            saved[key] = np.quantile(np.concatenate(largest), 1 - LEVEL, method="higher")
        thresholds[positions] = saved[key]
    return thresholds + _ROUNDING


_ROUNDING = np.float32(1e-6)
"""So that a component equal to all mixtures is not above them: a layer may have one crop only."""


def component_groups(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    counts: Int64[np.ndarray, " n"] | None = None,
) -> Iterator[tuple[str, int, Int64[np.ndarray, " g"]]]:
    """Yield layer, number of crops of a mixture, and positions of the components of this kind."""
    steps = np.unique([*_COUNTS, database.manifest.recipe.examples])
    examples = database.components["examples"].to_numpy()[rows] if counts is None else counts
    counts_to_steps = np.arange(int(examples.max(initial=0)) + 1)
    counts_to_steps = steps[np.searchsorted(steps, counts_to_steps, "right").clip(1) - 1]
    step = counts_to_steps[examples]
    ascending = bool((rows[1:] >= rows[:-1]).all())
    order = np.arange(len(rows)) if ascending else np.argsort(rows, kind="stable")
    layers = database.manifest.layers
    starts = np.searchsorted(rows[order], [entry.first for entry in layers])
    for entry, positions in zip(layers, np.split(order, starts[1:]), strict=True):
        shown = positions[examples[positions] > 0]
        kinds = step[shown]
        for number in np.flatnonzero(np.bincount(kinds)).tolist():
            yield entry.name, number, shown[kinds == number]


def mixtures(database: Database, layer: str, count: int) -> Float16[np.ndarray, "m d"]:
    """Return vectors of components whose examples are ``count`` random crops of a layer.

    They are kept in the database.
    """

    def load() -> Float16[np.ndarray, "m d"]:
        # as integers, since few readers of tables know 16-bit floats
        table = database.cached(
            "noise",
            [*database.digests(layer), count, MIXTURES, POOL, SEED],
            lambda: pd.DataFrame(
                {"vector": simulate(database, layer, count, MIXTURES, SEED).view(np.int16).ravel()}
            ),
        )
        flat = table["vector"].to_numpy(np.int16).copy().view(np.float16)
        return flat.reshape(-1, database.manifest.dim)

    return cached_on_database(database, ("mixtures", layer, count), load)


def cached_on_database(database: Database, key: tuple[object, ...], compute: Callable[[], T]) -> T:
    """Return what was computed for an opened database, or compute it."""
    saved = _SAVED.setdefault(database, {})
    if key not in saved:
        saved[key] = compute()
    return saved[key]


def simulate(
    database: Database, layer: str, count: int, number: int, seed: int
) -> Float16[np.ndarray, "n d"]:
    """Aggregate random crops of a layer as the database's components are.

    With weighted examples, each mixture has the readouts of a random component with at least
    ``count`` examples.
    """
    rng = np.random.default_rng((seed, count))
    vectors = torch.from_numpy(random_crops(database, layer, rng))
    drawn = torch.from_numpy(rng.integers(0, len(vectors), (number, count)))
    strength = strengths(database, layer, count)
    strength = strength[torch.from_numpy(rng.integers(0, len(strength), number))]
    blocks: list[np.ndarray] = []
    for picked, readouts in zip(
        drawn.split(max(1, _CROPS // count)), strength.split(max(1, _CROPS // count)), strict=True
    ):
        used = torch.ones_like(picked, dtype=torch.bool)
        mixed = aggregate_vectors(
            vectors[picked], used, readouts, database.manifest.recipe.aggregate
        )
        blocks.append(mixed.half().numpy())
    return np.concatenate(blocks)


def random_crops(
    database: Database, layer: str, rng: np.random.Generator
) -> Float32[np.ndarray, "u d"]:
    """Return the vectors of a layer's distinct crops, or of ``POOL`` of them at random."""
    crops = layer_crops(database, layer)
    if len(crops) > POOL:
        crops = np.sort(rng.choice(crops, POOL, replace=False))
    return database.vectors_of(crops.tolist()).astype(np.float32)


def strengths(database: Database, layer: str, count: int) -> torch.Tensor:
    """Return the ``count`` largest strengths of each component with as many examples."""
    component, _, strength = database.example_crops(layer)
    _, first, examples = np.unique(component, return_index=True, return_counts=True)
    first = first[examples >= count]
    return torch.from_numpy(strength[first[:, None] + np.arange(count)])
