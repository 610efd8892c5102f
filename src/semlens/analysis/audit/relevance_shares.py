"""Verdicts, and how much of a class's relevance each of them has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int8, Int64

from semlens.analysis.query_embedding import unit
from semlens.store.reader import Database

Verdict = Literal["valid", "spurious", "both", "unexpected"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""Aligned with valid concepts only, with spurious ones only, with both, with neither (3.4)."""
ALL = "all"
"""Stands for all layers together."""
INTERVAL = 0.95
"""Coverage of intervals."""


def verdicts(
    valid: Bool[np.ndarray, " k"], spurious: Bool[np.ndarray, " k"]
) -> Int8[np.ndarray, " k"]:
    """Return places in ``VERDICTS``."""
    return np.where(valid, np.where(spurious, 2, 0), np.where(spurious, 1, 3)).astype(np.int8)


@dataclass(frozen=True)
class ComponentWeights:
    """The part of each of k components in each layer and, last, in all: columns of sum 1."""

    labels: tuple[str, ...]
    components: Float[np.ndarray, "k l"]
    """By number."""
    relevance: Float[np.ndarray, "k l"]
    """By relevance; what speaks against the class has none, and layers count alike."""


def weigh(relevant: pd.DataFrame) -> ComponentWeights:
    """Weigh components by their ``layer`` and their ``mean`` share of its relevance."""
    names = list(dict.fromkeys(relevant["layer"]))
    member = np.stack([(relevant["layer"] == name).to_numpy(float) for name in names], axis=1)
    number = np.concatenate([member, member.sum(1, keepdims=True)], axis=1)
    part = member * np.maximum(relevant["mean"].to_numpy(float), 0)[:, None]
    total = part.sum(0)
    part = part / np.where(total > 0, total, 1)
    overall = part.sum(1, keepdims=True) / max(1, np.count_nonzero(total))
    return ComponentWeights(
        (*names, ALL), number / number.sum(0), np.concatenate([part, overall], axis=1)
    )


def share_table(
    weights: ComponentWeights, verdict: Int8[np.ndarray, " k"], redrawn: Int8[np.ndarray, "b k"]
) -> pd.DataFrame:
    """Return the share of each verdict in each layer, by number and by relevance.

    Intervals hold the middle 95 % of the shares that redrawn examples give; NaN without draws.
    """
    records: list[dict[str, object]] = []
    for code, name in enumerate(VERDICTS):
        mine, drawn = verdict == code, redrawn == code
        for place, label in enumerate(weights.labels):
            record: dict[str, object] = {
                "layer": label,
                "verdict": name,
                "components": int((mine & (weights.components[:, place] > 0)).sum()),
            }
            for what, weight in (
                ("by_number", weights.components[:, place]),
                ("by_relevance", weights.relevance[:, place]),
            ):
                record[what] = float(mine @ weight)
                record[f"{what}_low"], record[f"{what}_high"] = _interval(drawn @ weight)
            records.append(record)
    table = pd.DataFrame(records)
    order = list(weights.labels).index
    return table.sort_values("layer", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def _interval(draws: Float[np.ndarray, " b"]) -> tuple[float, float]:
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


CHUNK = 1024


class BootstrapCosines:
    """Cosines of theta with vectors, were each component's examples drawn anew.

    Each draw takes as many examples as a component has, with repetition, and joins them as the
    database did: by their mean, or weighted. Nothing is drawn for the median, whose draws do
    not follow from sums.
    """

    def __init__(
        self,
        database: Database,
        rows: Int64[np.ndarray, " k"],
        vectors: Float32[np.ndarray, "q d"],
    ) -> None:
        crop, weight, self.count = _examples(database, rows)
        if database.manifest.recipe.aggregate != "weighted":
            weight = np.ones_like(weight)
        # the scale of a mixture does not matter; without it squares of tiny readouts vanish
        most = weight.max(1, keepdims=True, initial=0)
        self.weight = weight / np.where(most > 0, most, 1)
        probes = unit(vectors).T
        shape = crop.shape
        self.along = np.zeros((*shape, probes.shape[1]), np.float32)
        self.gram = np.zeros((*shape, shape[1]), np.float32)
        for start in range(0, len(crop), CHUNK):
            part = slice(start, start + CHUNK)
            examples = database.crop_vectors[crop[part]].astype(np.float32)
            self.along[part] = examples @ probes
            self.gram[part] = examples @ examples.transpose(0, 2, 1)

    def draw(self, rng: np.random.Generator) -> Float32[np.ndarray, "k q"]:
        """Return the cosines of one draw; zeros for a component without examples."""
        number, slots = self.weight.shape
        # examples stand first in their slots, strongest first
        picks = (rng.random(self.weight.shape) * self.count[:, None]).astype(np.int64)
        filled = np.arange(slots)[None] < self.count[:, None]
        flat = (picks + np.arange(number)[:, None] * slots)[filled]
        times = np.bincount(flat, minlength=number * slots).reshape(number, slots)
        mix = (times * self.weight)[:, None].astype(np.float32)
        square = (mix @ self.gram @ mix.transpose(0, 2, 1))[:, :, 0]
        return (mix @ self.along)[:, 0] / np.maximum(np.sqrt(np.maximum(square, 0)), 1e-12)


def _examples(
    database: Database, rows: Int64[np.ndarray, " k"]
) -> tuple[Int64[np.ndarray, "k m"], Float32[np.ndarray, "k m"], Int64[np.ndarray, " k"]]:
    """Return components' crops, strongest first, the size of their readouts, and how many."""
    slots = database.manifest.recipe.examples
    crop = np.zeros((len(rows), slots), np.int64)
    weight = np.zeros((len(rows), slots), np.float32)
    count = np.zeros(len(rows), np.int64)
    layer = database.components["layer"].to_numpy()[rows]
    for name in dict.fromkeys(layer):
        mine = np.flatnonzero(layer == name)
        component, crops, activation = database.example_crops(name)
        # rows of one component lie together
        start, stop = np.searchsorted(component, [rows[mine], rows[mine] + 1])
        size = stop - start
        at = np.repeat(mine, size)
        slot = np.arange(len(at)) - np.repeat(np.cumsum(size) - size, size)
        source = np.repeat(start, size) + slot
        crop[at, slot] = crops[source]
        weight[at, slot] = np.abs(activation[source])
        count[mine] = size
    return crop, weight, count
