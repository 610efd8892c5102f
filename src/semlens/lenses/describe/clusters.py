"""Layout, clusters and cluster labels of components in semantic space (paper, Fig. 2b and D.2)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from semlens.errors import RecipeError
from semlens.progress import report_progress

RECALL = 0.99
"""Least share of the true neighbours that the sample must find."""
SAMPLE = 512
"""Vectors for which exact and approximate neighbours are compared."""
CANDIDATES = 4
"""Candidates that are compared in full, per neighbour."""
_FEWEST_AXES = 32

"""Products of one block: 128 MiB."""


def nearest_neighbours(
    units: Float32[np.ndarray, "n d"], count: int, seed: int = 0
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Return the nearest vectors of each unit vector, itself first, and their cosine distances.

    Parameters
    ----------
    count
        Neighbours of each vector, with itself; at most n.
    seed
        Of the sample from which the number of axes is chosen.
    """
    turned = _pca_axes(torch.from_numpy(units))
    axes = enough_axes(turned, count, seed)
    indices = torch.empty(len(units), count, dtype=torch.int64)
    cosines = torch.empty(len(units), count)
    step = max(1, _BLOCK // len(units))
    for start in range(0, len(units), step):
        block = torch.arange(start, min(start + step, len(units)))
        indices[block], cosines[block] = _nearest(turned, block, count, axes)
        report_progress("finding neighbours", min(start + step, len(units)), len(units))
    return indices.numpy(), (1 - cosines).clamp(min=0).numpy()


def _pca_axes(units: Float32[Tensor, "n d"]) -> Float32[Tensor, "n d"]:
    """Return the vectors in a basis in which the first axes have most of their squared length."""
    axes = torch.linalg.eigh(units.T.double() @ units.double()).eigenvectors
    return units @ axes.flip(1).float()


def enough_axes(turned: Float32[Tensor, "n d"], count: int, seed: int) -> int:
    """Return with how many of the first axes a sample finds ``RECALL`` of its true neighbours."""
    size, dim = turned.shape
    rows = np.sort(np.random.default_rng(seed).permutation(size)[:SAMPLE])
    found = {}
    for axes in (dim, *_powers(dim // 2)):
        parts = torch.from_numpy(rows).split(max(1, _BLOCK // size))
        found[axes] = torch.cat([_nearest(turned, part, count, axes)[0] for part in parts])
        shared = (found[axes][:, :, None] == found[dim][:, None]).any(1)
        if axes < dim and shared.float().mean() >= RECALL:
            return axes
    return dim


def _powers(largest: int) -> list[int]:
    """Return numbers of axes to try: each twice the one before."""
    numbers = [_FEWEST_AXES]
    while 2 * numbers[-1] <= largest:
        numbers.append(2 * numbers[-1])
    return [number for number in numbers if number <= largest]


def _nearest(
    turned: Float32[Tensor, "n d"], rows: Int64[Tensor, " b"], count: int, axes: int
) -> tuple[Int64[Tensor, "b k"], Float32[Tensor, "b k"]]:
    """Return the nearest vectors of some, themselves first, and their cosines.

    Parameters
    ----------
    axes
        Along how many axes candidates are compared.
    """
    size, dim = turned.shape
    products = turned[rows, :axes] @ turned[:, :axes].T
    products[torch.arange(len(rows)), rows] = torch.inf
    wanted = count if axes == dim else min(CANDIDATES * count, size)
    values, candidates = products.topk(wanted, dim=1)
    if axes < dim:
        in_full = torch.einsum("bcd,bd->bc", turned[candidates], turned[rows])
        in_full[candidates == rows[:, None]] = torch.inf
        values, best = in_full.topk(count, dim=1)
        candidates = candidates.gather(1, best)
    values[:, 0] = 1
    return candidates, values


NEIGHBOURS = 15
"""Neighbourhood size of UMAP; with fewer components PCA is used instead."""
MIN_DIST = 0.1
"""Minimum distance of points on the map (UMAP's default)."""
MANY = 10_000
"""Above so many components UMAP starts from principal axes and neighbours found by products."""
PLACEMENT_NEIGHBOURS = 5
"""Number of existing components that a new one is placed among."""
_EPSILON = 1e-6
_BLOCK = 2**25


# without TBB and OpenMP, numba aborts the process when two threads run UMAP at the same time
_LAYOUT_LOCK = threading.Lock()


def compute_layout(units: Float32[np.ndarray, "n d"], seed: int) -> Float32[np.ndarray, "n 2"]:
    """Project unit vectors to the plane by UMAP with the cosine metric (paper, D.2).

    Fewer than 15 vectors are projected on their first two principal axes: to UMAP they would
    all be one neighbourhood. More than ``MANY`` take a third of UMAP's own time: their neighbours
    are found by matrix products (:mod:`semlens.lenses.describe.clusters`), and the layout
    starts from the principal axes, not from eigenvectors of the graph.
    """
    if len(units) < NEIGHBOURS:
        return _principal_axes(units)
    with _LAYOUT_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its initialization and its imports
        from umap import UMAP, umap_, utils

        # or every process compiles them for nine seconds before its first map
        for compiled in (
            utils.fast_knn_indices,
            umap_.smooth_knn_dist,
            umap_.compute_membership_strengths,
        ):
            compiled.enable_caching()
        many: dict[str, Any] = {}
        if len(units) > MANY:
            neighbours = nearest_neighbours(units, NEIGHBOURS, seed)
            many = {"precomputed_knn": neighbours, "init": "pca", "tqdm_kwds": _epochs()}
        umap = UMAP(
            n_neighbors=min(NEIGHBOURS, len(units) - 1),
            min_dist=MIN_DIST,
            metric="cosine",
            random_state=seed,
            n_jobs=1,  # with a seed, UMAP runs in one thread anyway
            **many,
        )
        return np.asarray(umap.fit_transform(units), np.float32)


class _EpochProgress(StringIO):
    """Where UMAP's progress bar, tqdm, writes; its text is the epoch and their number."""

    def write(self, text: str) -> int:
        """Report what a bar would show."""
        done, _, total = text.strip().partition(" ")
        if total:
            report_progress("laying out the map", int(done), int(total))
        return len(text)


def _epochs() -> dict[str, Any]:
    """Return settings of tqdm that report its epochs as progress."""
    text = "{n_fmt} {total_fmt}"
    return {"file": _EpochProgress(), "bar_format": text, "disable": False, "mininterval": 1}


def _principal_axes(units: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n 2"]:
    centred = units.astype(np.float64) - units.mean(0, dtype=np.float64)
    left_vectors, scale, _ = np.linalg.svd(centred, full_matrices=False)
    positions = np.zeros((len(units), 2))
    count = min(2, len(scale))
    axes = left_vectors[:, :count] * scale[:count]
    largest = axes[np.abs(axes).argmax(0), np.arange(count)]
    positions[:, :count] = axes * np.where(
        largest < 0, -1, 1
    )  # the sign of an axis is arbitrary: fix it
    positions[np.abs(positions) < _EPSILON] = 0
    return positions.astype(np.float32)


def nearest_existing(
    existing: Float32[np.ndarray, "o d"], new: Float32[np.ndarray, "n d"]
) -> tuple[Int64[np.ndarray, "n k"], Float64[np.ndarray, "n k"]]:
    """Return the nearest existing unit vectors of each new one, and their weights (sum one).

    Inverse distance weighting (Shepard, 1968) with the squared cosine distance 1 - s of the
    five nearest. An identical vector gets nearly all of the weight.
    """
    count = min(PLACEMENT_NEIGHBOURS, len(existing))
    indices = np.zeros((len(new), count), np.int64)
    distance = np.zeros((len(new), count))
    step = max(1, _BLOCK // len(existing))
    for start in range(0, len(new), step):
        block = slice(start, start + step)
        distances = np.maximum(1 - new[block] @ existing.T, 0)
        # partition first, then order only the few nearest; ties go to the smaller index
        candidates = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)
        candidate_distances = np.take_along_axis(distances, candidates, axis=1)
        order = np.argsort(candidate_distances, axis=1, kind="stable")
        indices[block] = np.take_along_axis(candidates, order, axis=1)
        distance[block] = np.take_along_axis(candidate_distances, order, axis=1)
    weight = 1 / (distance + _EPSILON) ** 2
    return indices, weight / weight.sum(1, keepdims=True)


def interpolate_positions(
    positions: Float32[np.ndarray, "o 2"],
    indices: Int64[np.ndarray, "n k"],
    weight: Float64[np.ndarray, "n k"],
) -> Float32[np.ndarray, "n 2"]:
    """Return the weighted mean position of each new component's existing neighbours."""
    return np.einsum("nk,nkc->nc", weight, positions[indices]).astype(np.float32)


def vote_clusters(
    clusters: Int64[np.ndarray, " o"],
    indices: Int64[np.ndarray, "n k"],
    weight: Float64[np.ndarray, "n k"],
) -> Int64[np.ndarray, " n"]:
    """Return the cluster with the most weight among each new component's existing neighbours."""
    neighbours = clusters[indices]
    same = neighbours[:, :, None] == neighbours[:, None, :]
    best = (same * weight[:, None, :]).sum(2).argmax(1)
    return neighbours[np.arange(len(neighbours)), best]


Method = Literal["kmeans", "hdbscan"]
PAPER_CLUSTERS = 60
"""Number of clusters of the paper's Fig. 2b."""
PER_CLUSTER = 8
"""Least mean cluster size when the number of clusters is not given."""
SMALLEST = 5
"""Minimum cluster size of HDBSCAN."""
_FEW = 5_000
"""Up to this many components k-means runs with ten restarts, above it with one."""


def check_clusters(method: Method, count: int | None, components: int) -> None:
    """Check the number of clusters.

    Raises
    ------
    RecipeError
        If the method cannot give that many clusters.
    """
    if count is None:
        return
    if method == "hdbscan":
        raise RecipeError(
            f"HDBSCAN cannot be given a number of clusters (got {count}).",
            "It determines the number itself.",
            "Omit the number, or use kmeans.",
        )
    if not 1 <= count <= components:
        raise RecipeError(
            f"Cannot make {count} clusters.",
            f"Expected 1 to {components}, the number of components with examples.",
            "Choose another number.",
        )


def default_count(components: int) -> int:
    """Return the paper's 60 clusters, or fewer, so that they have eight components on average."""
    return max(1, min(PAPER_CLUSTERS, components // PER_CLUSTER))


def find_clusters(
    units: Float32[np.ndarray, "n d"], method: Method, count: int | None, seed: int
) -> Int64[np.ndarray, " n"]:
    """Return the cluster of each unit vector; 0 is the largest, -1 is noise (HDBSCAN).

    On unit vectors the Euclidean distance of both methods grows with the angle. There are
    fewer than ``count`` clusters if there are fewer distinct vectors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fewer distinct vectors than clusters
        clusters = _kmeans(units, count, seed) if method == "kmeans" else _hdbscan(units)
    labels, first, sizes = np.unique(clusters[clusters >= 0], return_index=True, return_counts=True)
    renamed = np.full(max(int(clusters.max()), 0) + 2, -1, np.int64)  # the last entry is for -1
    renamed[labels[np.lexsort((first, -sizes))]] = np.arange(len(labels))
    return renamed[clusters]


def _kmeans(units: Float32[np.ndarray, "n d"], count: int | None, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    count = default_count(len(units)) if count is None else count
    restarts = 10 if len(units) <= _FEW else 1
    return KMeans(count, n_init=cast(Any, restarts), random_state=seed).fit_predict(units)


def _hdbscan(units: Float32[np.ndarray, "n d"]) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    if len(units) < SMALLEST:
        return np.full(len(units), -1)
    return HDBSCAN(min_cluster_size=SMALLEST, copy=cast(Any, True)).fit_predict(units)


def describe_groups(
    positions: Float32[np.ndarray, "n 2"],
    group: Int64[np.ndarray, " n"],
    labels: Sequence[Mapping[str, float]],
    name: str,
) -> pd.DataFrame:
    """Return one row per cluster or place: ``name``, size, labels, scores, x, y; largest first.

    The position is that of the member nearest to the median: a mean may lie where no member is.

    Parameters
    ----------
    labels
        Labels of each group with their scores; group -1 has none.
    name
        What the groups are, and their column: ``cluster`` or ``place``.
    """
    rows: list[dict[str, object]] = []
    for number in (int(value) for value in np.unique(group) if value >= 0):
        members, best = np.flatnonzero(group == number), labels[number]
        x, y = map(float, positions[medoid(positions, members)])
        texts = {"labels": list(best), "scores": list(best.values())}
        rows.append({name: number, "size": len(members), **texts, "x": x, "y": y})
    frame = pd.DataFrame(rows, columns=[name, "size", "labels", "scores", "x", "y"])
    return frame.sort_values(["size", name], ascending=[False, True], ignore_index=True)


def medoid(positions: Float32[np.ndarray, "n 2"], members: Int64[np.ndarray, " m"]) -> int:
    """Return the member that is nearest to the median of the members."""
    offsets = positions[members] - np.median(positions[members], axis=0)
    return int(members[np.square(offsets).sum(1).argmin()])


def best_concepts(
    values: Float32[np.ndarray, " q"], names: Sequence[str], threshold: float, top: int
) -> dict[str, float]:
    """Return at most ``top`` concepts above a threshold, best first, each name once."""
    best: dict[str, float] = {}  # a name may occur in several categories
    for i in np.argsort(-values, kind="stable"):
        if len(best) == top or not values[i] > threshold:
            break
        best.setdefault(names[int(i)], float(values[i]))
    return best
