"""What was made fast for very many components: beside float64, and beside UMAP's own layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import WordEmbedder
from sklearn.manifold import trustworthiness
from umap import UMAP

import semlens as sl
from semlens.lenses.compare.component_sets import component_sets
from semlens.lenses.compare.labels_and_scores import assign_labels
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe import clusters
from semlens.lenses.describe.clusters import RECALL, compute_layout, nearest_neighbours
from semlens.lenses.labelling.chosen_method import choose_method
from semlens.lenses.labelling.scored_blocks import scored_blocks
from semlens.lenses.query_embedding import embed_concepts
from semlens.lenses.search.query import make_query
from semlens.lenses.search.search import rank
from semlens.progress import progress_listener

LAYERS = ["first", "second"]


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


@pytest.mark.parametrize("method", ["vote-examples", "semantic-lens", "clip-dissect"])
def test_the_best_component_of_each_word_is_that_of_all_scores(tmp_path, method, subject, images):
    db = sl.build(tmp_path / "db", subject, images, WordEmbedder(), LAYERS, examples=4)
    concepts = ConceptSet.of(["dog", "cat", "red", "tree", "dog"])
    embedding, chosen = embed_concepts(db, concepts), choose_method([db], method, 5)
    components = component_sets([db])[0]
    some = replace(components, rows=components.rows[1::3], complete=False)
    for part in (components, some):
        scores = np.full((len(part), 5), np.nan)
        for block in scored_blocks(db, part.rows, embedding, chosen):
            scores[block.place] = block.scores
        for _ in range(2):  # the second time it is read from the database
            found = assign_labels(part, embedding, concepts, chosen, 0.0)
            np.testing.assert_array_equal(found.component, scores.argmax(0))
            np.testing.assert_allclose(found.concept_score, scores.max(0), atol=1e-6)
            np.testing.assert_allclose(found.score, scores.max(1), atol=1e-6)
            best = np.where(scores.argmax(1) == 4, 0, scores.argmax(1))  # "dog" occurs twice
            np.testing.assert_array_equal(found.concept, np.where(scores.max(1) > 0, best, -1))


def test_a_search_gives_alignments_and_cosines_in_float64(tmp_path, subject, images):
    db = sl.build(tmp_path / "db", subject, images, WordEmbedder(), LAYERS, examples=4)
    query = make_query(db, ("dog",), without="red")
    hits = rank(db, query, top=5, offset=1, compare=False)
    assert [hit.rank for hit in hits] == [2, 3, 4, 5, 6]
    theta = db.theta.astype(np.float64)
    units = theta / np.maximum(np.linalg.norm(theta, axis=1, keepdims=True), 1e-12)
    positive = query.positive.vectors[0].astype(np.float64)
    aligned = np.where(db.has_examples, units @ query.direction.astype(np.float64), -np.inf)
    order = np.argsort(-aligned, kind="stable")[1:6]
    for hit, row in zip(hits, order, strict=True):
        assert hit.alignment == pytest.approx(aligned[row], abs=1e-6)
        assert hit.cosine == pytest.approx(
            units[hit.row] @ positive / np.linalg.norm(positive), abs=1e-6
        )
