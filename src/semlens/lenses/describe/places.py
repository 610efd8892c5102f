"""Places of a map: clusters side by side with the same meaning are one place with one label.

k-means divides a large region of one concept into several clusters, since it is told how many to
make. They are merged where both hold:

- *the same meaning*: the best label of each is among the labels of the other. Labels exceed the
  noise, so components without a meaning have none, and their clusters are never merged;
- *side by side*: the gap between them is smaller than the wider of the two is across.

Merging repeats with the labels of the merged clusters until nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int64
from scipy.spatial import KDTree

from semlens.lenses.describe.clusters import medoid
from semlens.lenses.describe.label_clusters import ClusterScores

CONTACT = 0.1
"""Share of a cluster's components that may lie nearer than the gap: a few outliers."""
_FURTHER_LABELS = 2


def side_by_side(first: Float32[np.ndarray, "n 2"], second: Float32[np.ndarray, "m 2"]) -> bool:
    """Whether the gap between two sets of points is smaller than the wider one is across.

    The gap is the first decile of the distances of a set's points from the nearest point of the
    other one, the larger of both directions; the width is twice the median distance from the
    medoid.
    """
    distances = (KDTree(a).query(b)[0] for a, b in ((first, second), (second, first)))
    gap = max(float(np.quantile(values, CONTACT)) for values in distances)
    return gap < max(_width(first), _width(second))


def _width(points: Float32[np.ndarray, "n 2"]) -> float:
    middle = points[medoid(points, np.arange(len(points)))]
    return 2 * float(np.median(np.hypot(*(points - middle).T)))


def merge_clusters(
    positions: Float32[np.ndarray, "n 2"],
    cluster: Int64[np.ndarray, " n"],
    scores: ClusterScores,
    top: int,
) -> tuple[Int64[np.ndarray, " c"], list[dict[str, float]]]:
    """Return the place of each cluster, and the labels of each place; 0 is the largest place.

    Parameters
    ----------
    cluster
        int64[n], the cluster of each component; -1 for none.
    top
        Labels of a place at most; more where two places would have the same labels otherwise.
    """
    count = len(scores.sizes)
    group = np.arange(count)
    while True:
        grouped = scores.grouped(group)
        labels = [list(grouped.labels(g, top)) for g in range(len(grouped.sizes))]
        member = np.where(cluster >= 0, np.append(group, -1)[cluster], -1)
        points = [positions[member == g] for g in range(len(labels))]
        root = np.arange(len(labels))
        for a, of_a in enumerate(labels):
            for b in range(a):
                of_b = labels[b]
                same = of_a and of_b and of_a[0] in of_b and of_b[0] in of_a
                if same and root[a] != root[b] and side_by_side(points[a], points[b]):
                    root[root == root[a]] = root[b]
        merged = np.unique(root, return_inverse=True)[1]
        if len(set(merged.tolist())) == len(labels):
            break
        group = merged[group]
    order = np.lexsort((np.unique(group, return_index=True)[1], -grouped.sizes))
    place = np.argsort(order)[group]
    return place, _distinct_labels(scores.grouped(place), top)


def _distinct_labels(scores: ClusterScores, top: int) -> list[dict[str, float]]:
    """Return the labels of each place; further ones where a larger place has the same."""
    taken: set[tuple[str, ...]] = set()
    result: list[dict[str, float]] = []
    for place in range(len(scores.sizes)):
        options: list[Mapping[str, float]] = [
            scores.labels(place, top + further) for further in range(_FURTHER_LABELS + 1)
        ]
        chosen = next((option for option in options if tuple(option) not in taken), options[0])
        taken.add(tuple(chosen))
        result.append(dict(chosen))
    return result
