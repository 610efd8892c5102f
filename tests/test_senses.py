"""Senses: real splits of examples, their labels, and sets of one sense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import semlens as sl
from semlens.lenses.labelling.senses import cluster_index, split_p_value


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def examples(rng, senses, count=40, dim=64):
    """Vectors around one or two random directions, at equal parts."""
    centres = unit(rng.normal(size=(senses, dim)))
    which = np.arange(count) % senses
    return unit(centres[which] + 0.1 * rng.normal(size=(count, dim))).astype(np.float32)


def test_the_cluster_index_is_that_of_the_best_of_many_k_means():
    rng = np.random.default_rng(0)
    sets = np.stack([examples(rng, senses, 16, 8) for senses in (1, 2, 1, 2)])
    found = cluster_index(torch.from_numpy(sets)).numpy()
    for vectors, value in zip(sets.astype(np.float64), found, strict=True):
        within = KMeans(2, n_init=200, random_state=0).fit(vectors).inertia_
        total = ((vectors - vectors.mean(0)) ** 2).sum()
        assert value == pytest.approx(within / total, abs=1e-4)


@pytest.mark.slow
def test_two_senses_are_found_and_one_sense_is_split_in_one_of_twenty_cases():
    rng = np.random.default_rng(1)
    one = [split_p_value(examples(rng, 1), draws=39) for _ in range(40)]
    two = [split_p_value(examples(rng, 2), draws=39) for _ in range(10)]
    assert np.mean(np.array(one) <= 0.05) <= 0.1
    assert max(two) <= 0.05
    assert split_p_value(examples(rng, 2, 3)) == 1  # too few to say


@pytest.mark.slow
def test_the_senses_of_components(tmp_path, subject, images, words):
    db = sl.build(
        tmp_path / "db.semlens", subject, images, words, ["second"], examples=12, crop="none"
    )
    vocabulary = sl.ConceptSet.of(["sky", "tree", "house", "dog"])
    found = db.senses(concepts=vocabulary, top=3)
    frame = found.to_pandas()
    poly = db.scores("second").to_pandas()["polysemanticity"]
    expected = [f"{value:.5f}" for value in sorted(poly, reverse=True)[:3]]
    assert [f"{v:.5f}" for v in frame["polysemanticity"][::2]] == expected
    for _, pair in frame.groupby("component"):
        ranks = sorted(pair["ranks"].iloc[0]) + sorted(pair["ranks"].iloc[1])
        examples_of = db.examples_of(db.rows_of(pair["component"].iloc[0])[0])
        assert sorted(ranks) == list(range(len(examples_of)))
        assert pair["share"].sum() == pytest.approx(1)
        assert set(pair["label"]) <= {"sky", "tree", "house", "dog"}
        assert pair["p_value"].between(0, 1).all()
    named = db.senses(components=frame["component"].iloc[0], concepts=vocabulary)
    assert named.frame["component"].nunique() == 1
    assert found.plot().height > 6 * 96
    assert found.to_json()["split"] == found.split
    assert f"{found.split} of 3 components" in str(found)
