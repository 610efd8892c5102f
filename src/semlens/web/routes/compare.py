"""Two models side by side: one map for both, what they share, and what only one has."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from semlens.analysis.compare.joint_map import JointMap, MappedModel, joint_map
from semlens.analysis.describe.score_distribution import Distribution, distributions
from semlens.web.app_state import All, AppState, ModelContext, records
from semlens.web.responses import csv, download, tensors
from semlens.web.routes.overview import rated

router = APIRouter(tags=["compare"])

First = Annotated[int, Query(ge=0, description="Number of the first model.")]
Kind = Literal["matched", "only_first", "only_second"]
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


class CompareResponse(BaseModel):
    """What two models share."""

    models: list[ComparedModel]
    matched: int
    """Pairs that are each other's nearest."""
    notes: list[str]
    measures: list[Distribution]
    """Each model is a "layer" of it, by its place."""


class PairInfo(BaseModel):
    """A component and its nearest in the other model."""

    component: str
    label: str | None
    other: str
    other_label: str | None
    similarity: float


class PairsPage(BaseModel):
    """Some of the pairs of a kind."""

    total: int
    pairs: list[PairInfo]
    cursor: int | None
    """Where the next ones start."""


@router.get("/compare")
def compare_models(a: First, b: Second, serving: All) -> CompareResponse:
    """Return how similar two models are, and how their measures are distributed."""
    found = _linked(serving, a, b)
    first, second = serving.at(a), serving.at(b)
    frames = [rated(served, serving).frame for served in (first, second)]
    return CompareResponse(
        models=[_compared(first, found.first), _compared(second, found.second)],
        matched=int(found.first.mutual.sum()),
        notes=list(found.notes),
        measures=distributions(
            pd.concat([frame.assign(layer=str(place)) for place, frame in enumerate(frames)])
        ),
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
    kind: Kind = "matched",
    cursor: Annotated[int, Query(ge=0)] = 0,
    k: Annotated[int, Query(ge=1, le=500)] = 50,
) -> PairsPage:
    """Return pairs: the most similar matched ones first, the most lonely first."""
    frame = _linked(serving, a, b).pairs(kind)
    end = cursor + k
    return PairsPage(
        total=len(frame),
        pairs=records(PairInfo, frame.iloc[cursor:end]),
        cursor=end if end < len(frame) else None,
    )


@router.get("/compare/pairs.csv", response_class=Response)
def compare_pairs_file(
    a: First,
    b: Second,
    serving: All,
    kind: Kind = "matched",
) -> Response:
    """Return all pairs of a kind as a table."""
    name = f"{serving.at(a).name}-{serving.at(b).name}-{kind}.csv".replace("/", "-")
    return download(csv(_linked(serving, a, b).pairs(kind)), "text/csv", name)


def _linked(serving: AppState, a: int, b: int) -> JointMap:
    first, second = serving.at(a), serving.at(b)
    return serving.work.result(
        f"compare {first.db.fingerprint} {second.db.fingerprint} {a} {b}",
        f"Comparing {first.name} with {second.name}, and laying out their map",
        lambda: joint_map(first.db, second.db),
    )


def _compared(served: ModelContext, side: MappedModel) -> ComparedModel:
    return ComparedModel(
        number=served.number,
        name=served.name,
        components=len(side.rows),
        similarity=side.set_similarity,
        threshold=side.threshold if np.isfinite(side.threshold) else None,
        alone=int(side.unmatched.sum()),
    )


def _arrays(side: MappedModel) -> dict[str, np.ndarray]:
    return {
        "x": side.positions[:, 0],
        "y": side.positions[:, 1],
        "row": side.rows.astype(np.int32),
        "nearest": side.nearest.astype(np.int32),
        "similarity": side.similarity,
        "state": side.unmatched.astype(np.uint8) | (side.mutual.astype(np.uint8) << 1),
    }
