"""Where components lie on a map: UMAP of theta, and new components among those that are there."""

from __future__ import annotations

import threading
import warnings

import numpy as np
from jaxtyping import Float32, Float64, Int64

NEIGHBOURS = 15
"""Neighbourhood of UMAP; with fewer components it has nothing to work with."""
MIN_DIST = 0.1
"""Least distance of points on the map, in its own units (UMAP's default)."""
PLACED_BY = 5
"""How many components a new one is placed among."""
_TWIN = 1e-6
_BLOCK = 2**25


def layout_settings(seed: int) -> dict[str, float | int | str]:
    """Return what decides a layout, besides the vectors."""
    return {"metric": "cosine", "neighbours": NEIGHBOURS, "min_dist": MIN_DIST, "seed": seed}


# numba ends the process when two threads lay out at once, where it has neither TBB nor OpenMP
_LAYING = threading.Lock()


def lay_out(units: Float32[np.ndarray, "n d"], seed: int) -> Float32[np.ndarray, "n 2"]:
    """Project unit vectors to the plane by UMAP with the cosine metric (paper, D.2).

    Fewer than 15 vectors are projected on their first two principal axes: UMAP keeps
    neighbourhoods, and they are one.
    """
    if len(units) < NEIGHBOURS:
        return _principal_axes(units)
    with _LAYING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own choice of starts and of imports
        from umap import UMAP

        made = UMAP(
            n_neighbors=min(NEIGHBOURS, len(units) - 1),
            min_dist=MIN_DIST,
            metric="cosine",
            random_state=seed,
            n_jobs=1,  # a seed and threads exclude each other
        ).fit_transform(units)
    return np.asarray(made, np.float32)


def _principal_axes(units: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n 2"]:
    centred = units.astype(np.float64) - units.mean(0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    made = np.zeros((len(units), 2))
    count = min(2, len(scale))
    axes = left[:, :count] * scale[:count]
    largest = axes[np.abs(axes).argmax(0), np.arange(count)]
    made[:, :count] = axes * np.where(largest < 0, -1, 1)  # an axis has no sign: choose one
    made[np.abs(made) < _TWIN] = 0
    return made.astype(np.float32)


def nearest_old(
    old: Float32[np.ndarray, "o d"], new: Float32[np.ndarray, "n d"]
) -> tuple[Int64[np.ndarray, "n k"], Float64[np.ndarray, "n k"]]:
    """Return the nearest old unit vectors of each new one, and their weights (sum one).

    Inverse distance weighting (Shepard, 1968) with the square of the cosine distance 1 - s
    of the five nearest. A twin takes nearly all of the weight.
    """
    count = min(PLACED_BY, len(old))
    places = np.zeros((len(new), count), np.int64)
    distance = np.zeros((len(new), count))
    step = max(1, _BLOCK // len(old))
    for start in range(0, len(new), step):
        part = slice(start, start + step)
        away = np.maximum(1 - new[part] @ old.T, 0)
        some = np.sort(np.argpartition(away, count - 1, axis=1)[:, :count], axis=1)
        near = np.take_along_axis(away, some, axis=1)
        order = np.argsort(near, axis=1, kind="stable")
        places[part] = np.take_along_axis(some, order, axis=1)
        distance[part] = np.take_along_axis(near, order, axis=1)
    weight = 1 / (distance + _TWIN) ** 2
    return places, weight / weight.sum(1, keepdims=True)


def place(
    where: Float32[np.ndarray, "o 2"],
    places: Int64[np.ndarray, "n k"],
    weight: Float64[np.ndarray, "n k"],
) -> Float32[np.ndarray, "n 2"]:
    """Return the weighted mean of the positions of each new component's old neighbours."""
    return np.einsum("nk,nkc->nc", weight, where[places]).astype(np.float32)


def vote(
    cluster: Int64[np.ndarray, " o"],
    places: Int64[np.ndarray, "n k"],
    weight: Float64[np.ndarray, "n k"],
) -> Int64[np.ndarray, " n"]:
    """Return the cluster with most weight among each new component's old neighbours."""
    theirs = cluster[places]
    same = theirs[:, :, None] == theirs[:, None, :]
    best = (same * weight[:, None, :]).sum(2).argmax(1)
    return theirs[np.arange(len(theirs)), best]
