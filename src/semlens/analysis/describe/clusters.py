"""Clusters in semantic space, and their labels (paper, Fig. 2b and D.2)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64

from semlens.analysis.query_embedding import QueryEmbedding, alignment
from semlens.errors import RecipeError

NEIGHBOURS = 15
"""Neighbourhood of UMAP; with fewer components it has nothing to work with."""
MIN_DIST = 0.1
"""Least distance of points on the map, in its own units (UMAP's default)."""
PLACED_BY = 5
"""How many components a new one is placed among."""
_TWIN = 1e-6
_BLOCK = 2**25


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

        umap = UMAP(
            n_neighbors=min(NEIGHBOURS, len(units) - 1),
            min_dist=MIN_DIST,
            metric="cosine",
            random_state=seed,
            n_jobs=1,  # a seed and threads exclude each other
        )
        return np.asarray(umap.fit_transform(units), np.float32)


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


Method = Literal["kmeans", "hdbscan"]
PAPER_CLUSTERS = 60
"""Number of clusters of the paper's Fig. 2b."""
PER_CLUSTER = 8
"""Components that a cluster has at least, on average, when nobody says how many clusters."""
SMALLEST = 5
"""Least size of a cluster of HDBSCAN."""
_SMALL = 5_000
"""Up to so many components k-means starts ten times and keeps the best, above it once."""


def check_clusters(method: Method, count: int | None, components: int) -> None:
    """Refuse a number of clusters that cannot be.

    Raises
    ------
    RecipeError
        If so.
    """
    if count is None:
        return
    if method == "hdbscan":
        raise RecipeError(
            f"{count} clusters were asked for, by HDBSCAN.",
            "It finds how many there are.",
            "Leave out the number, or choose kmeans.",
        )
    if not 1 <= count <= components:
        raise RecipeError(
            f"{count} clusters were asked for.",
            f"Expected 1 to {components}, the number of components with examples.",
            "Choose another number.",
        )


def default_count(components: int) -> int:
    """Return the paper's 60 clusters, or fewer, so that one has eight components on average."""
    return max(1, min(PAPER_CLUSTERS, components // PER_CLUSTER))


def find_clusters(
    units: Float32[np.ndarray, "n d"], method: Method, count: int | None, seed: int
) -> Int64[np.ndarray, " n"]:
    """Return the cluster of each unit vector; 0 is the largest, -1 means none (HDBSCAN).

    Both methods see unit vectors, whose Euclidean distance grows with their angle. There
    are fewer than ``count`` clusters if fewer vectors differ.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer different vectors than clusters
        found = _kmeans(units, count, seed) if method == "kmeans" else _hdbscan(units)
    names, first, sizes = np.unique(found[found >= 0], return_index=True, return_counts=True)
    renamed = np.full(max(int(found.max()), 0) + 2, -1, np.int64)  # the last one is for -1
    renamed[names[np.lexsort((first, -sizes))]] = np.arange(len(names))
    return renamed[found]


def _kmeans(units: Float32[np.ndarray, "n d"], count: int | None, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    count = default_count(len(units)) if count is None else count
    starts = 10 if len(units) <= _SMALL else 1
    return KMeans(count, n_init=cast(Any, starts), random_state=seed).fit_predict(units)


def _hdbscan(units: Float32[np.ndarray, "n d"]) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    if len(units) < SMALLEST:
        return np.full(len(units), -1)
    return HDBSCAN(min_cluster_size=SMALLEST, copy=cast(Any, True)).fit_predict(units)


def describe_clusters(
    theta: Float32[np.ndarray, "n d"],
    where: Float32[np.ndarray, "n 2"],
    cluster: Int64[np.ndarray, " n"],
    probe: QueryEmbedding | None,
    threshold: float,
    top: int,
) -> pd.DataFrame:
    """Return one row per cluster: cluster, size, labels, alignments, x, y; largest first.

    Labels are the concepts of different names whose alignment (Eq. 4) with the mean of the
    cluster's thetas is best, and above ``threshold`` (paper, D.2). Position is that of the
    member nearest to the median of all: a mean may lie where no member is.
    """
    found = [int(c) for c in np.unique(cluster) if c >= 0]
    members = [cluster == c for c in found]
    named: list[dict[str, float]] = [{}] * len(found)
    if probe is not None and found:
        means = np.stack([theta[inside].mean(0, dtype=np.float64) for inside in members])
        values = alignment(means.astype(np.float32), probe)
        named = [best_concepts(value, probe.names, threshold, top) for value in values]
    rows: list[dict[str, object]] = []
    for number, inside, labels in zip(found, members, named, strict=True):
        away = where[inside] - np.median(where[inside], axis=0)
        x, y = map(float, where[inside][np.square(away).sum(1).argmin()])
        words = {"labels": list(labels), "alignments": list(labels.values())}
        rows.append({"cluster": number, "size": int(inside.sum()), **words, "x": x, "y": y})
    frame = pd.DataFrame(rows, columns=["cluster", "size", "labels", "alignments", "x", "y"])
    return frame.sort_values(["size", "cluster"], ascending=[False, True], ignore_index=True)


def best_concepts(
    values: Float32[np.ndarray, " q"], names: Sequence[str], threshold: float, top: int
) -> dict[str, float]:
    """Return at most ``top`` concepts above a threshold, the best first, each name once."""
    best: dict[str, float] = {}  # a name may stand in several categories
    for i in np.argsort(-values, kind="stable"):
        if len(best) == top or not values[i] > threshold:
            break
        best.setdefault(names[int(i)], float(values[i]))
    return best
