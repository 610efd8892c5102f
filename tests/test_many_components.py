"""Maps of very many components: neighbours beside all cosines in float64, and UMAP's own layout."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from umap import UMAP

from semlens.analysis.describe import clusters
from semlens.analysis.describe.clusters import compute_layout
from semlens.analysis.describe.neighbour_graph import RECALL, nearest_neighbours
from semlens.progress import progress_listener


def concept_like(count, dim=64, power=0.65, seed=0):
    """Unit vectors whose singular values fall with a power of their rank, around a mean."""
    spread = np.arange(1, dim + 1) ** -power
    vectors = np.random.default_rng(seed).normal(size=(count, dim)) * spread
    vectors[:, -1] += 0.5 * np.linalg.norm(spread)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def true_neighbours(units, count):
    """Indices by descending cosine in float64, itself first."""
    cosines = units.astype(np.float64) @ units.astype(np.float64).T
    np.fill_diagonal(cosines, 2)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, 1 - np.take_along_axis(cosines, order, 1)


@pytest.mark.parametrize("power", [0, 0.65, 1.5])
def test_nearly_all_true_neighbours_are_found_whatever_the_spectrum(power):
    units = concept_like(1500, 96, power)
    found, distance = nearest_neighbours(units, 15)
    expected, apart = true_neighbours(units, 15)
    np.testing.assert_array_equal(found[:, 0], np.arange(1500))
    shared = (found[:, :, None] == expected[:, None]).any(1)
    assert shared.mean() > RECALL - 0.01
    right = (found == expected).all(1)
    assert right.mean() > 0.8
    np.testing.assert_allclose(distance[right][:, 1:], apart[right][:, 1:], atol=3e-6)
    np.testing.assert_array_equal(distance[:, 0], 0)


def test_without_axes_that_suffice_the_neighbours_are_exact():
    # in a spherical cloud, no axis says more than another
    units = concept_like(800, 200, power=0)
    found, _ = nearest_neighbours(units, 15)
    expected, _ = true_neighbours(units, 15)
    assert (found == expected).mean() > 0.999  # but for ties after rounding


def test_equal_vectors_are_their_own_first_neighbours():
    units = np.repeat(concept_like(3, 48), 30, axis=0)
    found, distance = nearest_neighbours(units, 15)
    np.testing.assert_array_equal(found[:, 0], np.arange(90))
    assert all(len(set(row)) == 15 for row in found.tolist())
    np.testing.assert_allclose(distance, 0, atol=1e-6)


@pytest.mark.slow
def test_a_large_map_is_as_trustworthy_as_umap_and_keeps_its_seed(monkeypatch):
    units = concept_like(400)
    full = UMAP(
        n_neighbors=15, min_dist=0.1, metric="cosine", random_state=3, n_jobs=1
    ).fit_transform(units)
    np.testing.assert_array_equal(compute_layout(units, 3), full)  # small maps are UMAP's own
    monkeypatch.setattr(clusters, "MANY", 300)
    reports = []
    with progress_listener(lambda *report: reports.append(report)):
        large = compute_layout(units, 3)
    np.testing.assert_array_equal(large, compute_layout(units, 3))
    assert not np.array_equal(large, full)
    kept, of_full = (
        trustworthiness(units, made, n_neighbors=15, metric="cosine") for made in (large, full)
    )
    assert kept > of_full - 0.02
    assert ("finding neighbours", 400, 400) in reports
    epochs = [(done, total) for stage, done, total in reports if stage == "laying out the map"]
    assert epochs[-1][0] == epochs[-1][1] > 100
