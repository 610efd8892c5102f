"""Routes of the comparison of two models: joint map, matched pairs, and unmatched components."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from semlens.lenses.compare.joint_map import JointMap, MappedModel, joint_map
from semlens.lenses.describe.score_distribution import MeasureDistribution, distributions
from semlens.web.app_state import AppState, ModelContext, State, records
from semlens.web.responses import csv, download, tensors
from semlens.web.routes.overview import all_scores

router = APIRouter(tags=["compare"])

First = Annotated[int, Query(ge=0, description="Number of the first model.")]
Kind = Literal["matched", "only_first", "only_second"]
Second = Annotated[int, Query(ge=0, description="Number of the second model.")]


class ComparedModel(BaseModel):
    """One of two compared models."""

    number: int
    name: str
    components: int
    similarity: float
    """Set similarity with the other model (paper, Eq. 5)."""
    threshold: float | None
    """Cosine below which a component counts as unmatched."""
    unmatched: int
    """Number of components without a counterpart in the other model."""


class CompareResponse(BaseModel):
    """Comparison of two models."""

    models: list[ComparedModel]
    matched: int
    """Number of pairs that are mutual nearest neighbours."""
    notes: list[str]
    measures: list[MeasureDistribution]
    """Distributions in which the models take the place of layers."""


class PairInfo(BaseModel):
    """A component and the nearest component of the other model."""

    component: str
    label: str | None
    other: str
    other_label: str | None
    similarity: float


class PairsPage(BaseModel):
    """A page of pairs."""

    total: int
    pairs: list[PairInfo]
    cursor: int | None
    """Start of the next page; null on the last one."""


@router.get("/compare")
def compare_models(a: First, b: Second, state: State) -> CompareResponse:
    """Return the similarity of two models and the distributions of their measures."""
    joint = _joint_map(state, a, b)
    first, second = state.model(a), state.model(b)
    frames = [all_scores(context, state).frame for context in (first, second)]
    return CompareResponse(
        models=[_compared(first, joint.first), _compared(second, joint.second)],
        matched=int(joint.first.mutual.sum()),
        notes=list(joint.notes),
        measures=distributions(
            pd.concat([frame.assign(layer=str(i)) for i, frame in enumerate(frames)])
        ),
    )


@router.get("/compare/points", response_class=Response)
def compare_points(a: First, b: Second, state: State) -> Response:
    """Return both maps as safetensors.

    For each model (prefix ``a_`` or ``b_``): ``x``, ``y`` f32[n], ``row`` and ``nearest`` i32[n]
    (rows in its own and in the other database), ``similarity`` f32[n], and ``flags`` u8[n]:
    bit 0 for unmatched, bit 1 for mutual nearest neighbours.
    """
    joint = _joint_map(state, a, b)
    return tensors(
        {
            f"{letter}_{name}": array
            for letter, side in (("a", joint.first), ("b", joint.second))
            for name, array in _arrays(side).items()
        }
    )


@router.get("/compare/pairs")
def compare_pairs(
    a: First,
    b: Second,
    state: State,
    kind: Kind = "matched",
    cursor: Annotated[int, Query(ge=0)] = 0,
    k: Annotated[int, Query(ge=1, le=500)] = 50,
) -> PairsPage:
    """Return a page of pairs: most similar first if matched, least similar first if unmatched."""
    frame = _joint_map(state, a, b).pairs(kind)
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
    state: State,
    kind: Kind = "matched",
) -> Response:
    """Return all pairs of a kind as CSV."""
    name = f"{state.model(a).name}-{state.model(b).name}-{kind}.csv".replace("/", "-")
    return download(csv(_joint_map(state, a, b).pairs(kind)), "text/csv", name)


def _joint_map(state: AppState, a: int, b: int) -> JointMap:
    first, second = state.model(a), state.model(b)
    return state.jobs.result(
        f"compare {first.db.fingerprint} {second.db.fingerprint} {a} {b}",
        f"Comparing {first.name} with {second.name} and computing their map",
        lambda: joint_map(first.db, second.db),
    )


def _compared(context: ModelContext, side: MappedModel) -> ComparedModel:
    return ComparedModel(
        number=context.number,
        name=context.name,
        components=len(side.rows),
        similarity=side.set_similarity,
        threshold=side.threshold if np.isfinite(side.threshold) else None,
        unmatched=int(side.unmatched.sum()),
    )


def _arrays(side: MappedModel) -> dict[str, np.ndarray]:
    return {
        "x": side.positions[:, 0],
        "y": side.positions[:, 1],
        "row": side.rows.astype(np.int32),
        "nearest": side.nearest.astype(np.int32),
        "similarity": side.similarity,
        "flags": side.unmatched.astype(np.uint8) | (side.mutual.astype(np.uint8) << 1),
    }
