"""Verdicts, and how much of a class's relevance each of them has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int8

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
class Weights:
    """The part of each of k components in each layer and, last, in all: columns of sum 1."""

    labels: tuple[str, ...]
    components: Float[np.ndarray, "k l"]
    """By number."""
    relevance: Float[np.ndarray, "k l"]
    """By relevance; what speaks against the class has none, and layers count alike."""


def weigh(relevant: pd.DataFrame) -> Weights:
    """Weigh components by their ``layer`` and their ``mean`` share of its relevance."""
    names = list(dict.fromkeys(relevant["layer"]))
    member = np.stack([(relevant["layer"] == name).to_numpy(float) for name in names], axis=1)
    number = np.concatenate([member, member.sum(1, keepdims=True)], axis=1)
    part = member * np.maximum(relevant["mean"].to_numpy(float), 0)[:, None]
    total = part.sum(0)
    part = part / np.where(total > 0, total, 1)
    overall = part.sum(1, keepdims=True) / max(1, np.count_nonzero(total))
    return Weights((*names, ALL), number / number.sum(0), np.concatenate([part, overall], axis=1))


def share_table(
    weights: Weights, verdict: Int8[np.ndarray, " k"], redrawn: Int8[np.ndarray, "b k"]
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
    order = {label: place for place, label in enumerate(weights.labels)}
    table = pd.DataFrame(records)
    return table.sort_values("layer", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def _interval(draws: Float[np.ndarray, " b"]) -> tuple[float, float]:
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)
