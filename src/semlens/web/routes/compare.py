"""Two models side by side: one map for both, what they share, and what only one has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from semlens.analysis.compare.linked import Linked, Side, link
from semlens.analysis.describe.distribution import distributions
from semlens.web.download import csv, download
from semlens.web.routes.overview import rated
from semlens.web.served import All, Served, Serving
from semlens.web.tensors import tensors

router = APIRouter(tags=["compare"])

First = Annotated[int, Query(ge=0, description="Number of the first model.")]
Second = Annotated[int, Query(ge=0, description="Number of the second model.")]


class ComparedModel(BaseModel):
    """One of two models, seen from the other."""

    number: int
    name: str
    components: int
    similarity: float
    """Set similarity with the other (paper, Eq. 5)."""
    threshold: float | None
    """Cosine under which a component has no counterpart."""
    alone: int
    """How many have none."""


class ComparedMeasure(BaseModel):
    """One measure of both models over common bins."""

    measure: str
    edges: list[float]
    counts: list[list[int]]
    """One list per model."""
    means: list[float | None]


class CompareAnswer(BaseModel):
    """What two models share."""

    models: list[ComparedModel]
    matched: int
    """Pairs that are each other's nearest."""
    notes: list[str]
    measures: list[ComparedMeasure]


class PairInfo(BaseModel):
    """A component and its nearest in the other model."""

    row: int
    name: str
    label: str | None
    other_row: int
    other_name: str
    other_label: str | None
    similarity: float


class PairsPage(BaseModel):
    """Some of the pairs of a kind."""

    total: int
    pairs: list[PairInfo]
    cursor: int | None
    """Where the next ones start."""


@router.get("/compare")
def compare_models(a: First, b: Second, serving: All) -> CompareAnswer:
    """Return how similar two models are, and how their measures are distributed."""
    found = _linked(serving, a, b)
    first, second = serving.at(a), serving.at(b)
    frames = [rated(served, serving).frame for served in (first, second)]
    return CompareAnswer(
        models=[_compared(first, found.first), _compared(second, found.second)],
        matched=int(found.first.mutual.sum()),
        notes=list(found.notes),
        measures=_measures(frames),
    )


@router.get("/compare/points", response_class=Response)
def compare_points(a: First, b: Second, serving: All) -> Response:
    """Return both maps as safetensors.

    For each model (``a_`` and ``b_``): ``x``, ``y`` f32[n], ``row``, ``nearest`` i32[n]
    (rows in the own and in the other database), ``similarity`` f32[n], and ``state`` u8[n]:
    bit 0 for no counterpart, bit 1 for each other's nearest.
    """
    found = _linked(serving, a, b)
    return tensors(
        {
            f"{letter}_{name}": array
            for letter, side in (("a", found.first), ("b", found.second))
            for name, array in _arrays(side).items()
        }
    )


@router.get("/compare/pairs")
def compare_pairs(
    a: First,
    b: Second,
    serving: All,
    kind: Literal["matched", "only_first", "only_second"] = "matched",
    cursor: Annotated[int, Query(ge=0)] = 0,
    k: Annotated[int, Query(ge=1, le=500)] = 50,
) -> PairsPage:
    """Return pairs: the most similar matched ones first, the most lonely first."""
    frame = _linked(serving, a, b).pairs(kind)
    part = _named(serving, a, b, kind, frame.iloc[cursor : cursor + k])
    end = cursor + len(part)
    return PairsPage(
        total=len(frame),
        pairs=[PairInfo(**record) for record in part.to_dict("records")],
        cursor=end if end < len(frame) else None,
    )


@router.get("/compare/pairs.csv", response_class=Response)
def compare_pairs_file(
    a: First,
    b: Second,
    serving: All,
    kind: Literal["matched", "only_first", "only_second"] = "matched",
) -> Response:
    """Return all pairs of a kind as a table."""
    name = f"{serving.at(a).name}-{serving.at(b).name}-{kind}.csv".replace("/", "-")
    pairs = _linked(serving, a, b).pairs(kind)
    return download(csv(_named(serving, a, b, kind, pairs)), "text/csv", name)


def _linked(serving: Serving, a: int, b: int) -> Linked:
    first, second = serving.at(a), serving.at(b)
    return serving.work.result(
        f"compare {first.db.fingerprint} {second.db.fingerprint} {a} {b}",
        f"Comparing {first.name} with {second.name}, and laying out their map",
        lambda progress: link(first.db, second.db, progress=progress),
    )


def _named(serving: Serving, a: int, b: int, kind: str, pairs: pd.DataFrame) -> pd.DataFrame:
    mine, other = serving.at(a).db, serving.at(b).db
    if kind == "only_second":
        mine, other = other, mine
    return pairs.assign(
        name=mine.names(pairs["row"].to_numpy()), other_name=other.names(pairs["other"].to_numpy())
    ).rename(columns={"other": "other_row"})


def _compared(served: Served, side: Side) -> ComparedModel:
    return ComparedModel(
        number=served.number,
        name=served.name,
        components=len(side.rows),
        similarity=side.mean,
        threshold=side.threshold if np.isfinite(side.threshold) else None,
        alone=int(side.alone.sum()),
    )


def _arrays(side: Side) -> dict[str, np.ndarray]:
    return {
        "x": side.where[:, 0],
        "y": side.where[:, 1],
        "row": side.rows.astype(np.int32),
        "nearest": side.nearest.astype(np.int32),
        "similarity": side.similarity,
        "state": side.alone.astype(np.uint8) | (side.mutual.astype(np.uint8) << 1),
    }


def _measures(frames: Sequence[pd.DataFrame]) -> list[ComparedMeasure]:
    both = pd.concat([frame.assign(layer=str(place)) for place, frame in enumerate(frames)])
    return [
        ComparedMeasure(
            measure=one.measure,
            edges=one.edges.tolist(),
            counts=[spread.counts.tolist() for spread in one.layers],
            means=[s.mean if np.isfinite(s.mean) else None for s in one.layers],
        )
        for one in distributions(both)
    ]
