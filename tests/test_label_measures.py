"""Measures of labels against plain float64 loops, and their sanity checks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from benchmarks.cases.labels.measures import (
    OF_EXTENTS,
    SHARE,
    Phi,
    Scored,
    as_similarity,
    degraded,
    drops,
    of_extents,
    of_similarities,
    pearson,
    prefers_right,
    sanity,
    strongest,
)
from benchmarks.worlds.labelled.synthetic import synthetic_units


def mean(values):
    return sum(values) / len(values)


def plain_pearson(a, c):
    x, y = [v - mean(a) for v in a], [v - mean(c) for v in c]
    norm = sum(v * v for v in x) ** 0.5 * sum(v * v for v in y) ** 0.5
    return sum(p * q for p, q in zip(x, y, strict=True)) / norm if norm else 0


def plain_cosine(a, c):
    norm = sum(v * v for v in a) ** 0.5 * sum(v * v for v in c) ** 0.5
    return sum(p * q for p, q in zip(a, c, strict=True)) / norm if norm else 0


def plain_auc(a, c):
    pairs = [(x > y) + 0.5 * (x == y) for x, k in zip(a, c, strict=True) if k
             for y, j in zip(a, c, strict=True) if not j]  # fmt: skip
    return mean(pairs) if pairs else 0.5


def plain_mad(a, c):
    inside = [v for v, k in zip(a, c, strict=True) if k]
    outside = [v for v, k in zip(a, c, strict=True) if not k]
    if not inside or not outside:
        return 0
    spread = mean([(v - mean(outside)) ** 2 for v in outside]) ** 0.5
    return (mean(inside) - mean(outside)) / spread if spread else 0


def plain_auprc(a, c):
    if not any(c):
        return 0
    found, before = 0.0, 0
    for least in sorted(set(a), reverse=True):
        shown = [k for v, k in zip(a, c, strict=True) if v >= least]
        found += (sum(shown) - before) / sum(c) * mean(shown)
        before = sum(shown)
    return found


def active(a):
    least = sorted(a)[len(a) - max(1, round(SHARE * len(a)))]
    return [v >= least and v > min(a) for v in a]


def plain_f1(a, c):
    both = sum(x and k for x, k in zip(active(a), c, strict=True))
    total = sum(active(a)) + sum(c)
    return 2 * both / total if total else 0


def plain_iou(a, c):
    both = sum(bool(x and k) for x, k in zip(active(a), c, strict=True))
    either = sum(bool(x or k) for x, k in zip(active(a), c, strict=True))
    return both / either if either else 0


PLAIN = {
    "pearson": plain_pearson, "cosine": plain_cosine, "auprc": plain_auprc, "auc": plain_auc,
    "mad": plain_mad, "f1": plain_f1, "iou": plain_iou,
}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """Readouts with ties, and concepts: with, without and on all images, and of any size."""
    draw = np.random.default_rng(0)
    concepts = (draw.random((101, 8)) < draw.uniform(0.05, 0.6, 8)).astype(float)
    concepts[:, 6], concepts[:, 7] = 0, 1
    readouts = (draw.standard_normal(101) + 2 * concepts[:, 1]).round(1)
    return readouts, concepts


@pytest.mark.parametrize("name", OF_EXTENTS)
@pytest.mark.parametrize("kind", ["any", "behind a ReLU", "constant"])
def test_measures_are_those_of_plain_loops(world, name, kind):
    readouts, concepts = world
    if kind != "any":
        readouts = np.maximum(readouts - 2.5, 0) if kind == "behind a ReLU" else 0 * readouts + 3
    expected = [PLAIN[name](readouts.tolist(), column.tolist()) for column in concepts.T]
    np.testing.assert_allclose(OF_EXTENTS[name](readouts, concepts), expected, atol=1e-12)


def test_plain_loops_are_those_of_scikit_learn(world):
    a, concepts = world
    c = concepts[:, 1]
    assert plain_auc(a, c) == pytest.approx(roc_auc_score(c, a))
    assert plain_auprc(a.tolist(), c.tolist()) == pytest.approx(average_precision_score(c, a))
    assert plain_f1(a, c) == pytest.approx(f1_score(c, active(a)))
    assert plain_iou(a, c) == pytest.approx(jaccard_score(c, active(a)))


def test_simulation_takes_similarities(world):
    readouts, concepts = world
    similarity = concepts + np.random.default_rng(1).random(concepts.shape)
    expected = [plain_pearson(readouts.tolist(), column.tolist()) for column in similarity.T]
    np.testing.assert_allclose(pearson(readouts, similarity), expected, atol=1e-12)


def test_the_strongest_images_of_a_rare_unit_are_those_that_activate_it():
    readouts = np.zeros(1000)
    readouts[:7] = 1
    assert strongest(readouts).sum() == 7
    assert strongest(np.arange(1000.0)).sum() == 50
    assert strongest(np.ones(1000)).sum() == 0


def test_phi_is_the_position_among_all_concepts(world):
    readouts, concepts = world
    means = [mean([v for v, k in zip(readouts, column, strict=True) if k])
             for column in concepts.T if column.any()]  # fmt: skip
    expected = [(m - min(means)) / (max(means) - min(means)) for m in means]
    found = Phi(concepts.astype(bool))(readouts, concepts)
    np.testing.assert_allclose(found, [*expected[:6], 0, expected[6]], atol=1e-12)
    assert found.max() == 1 == found[1]
    np.testing.assert_array_equal(Phi(concepts.astype(bool))(0 * readouts, concepts), 0)


def test_worse_extents_lose_half_or_gain_as_many(world):
    _, concepts = world
    extent = concepts[:, 0].astype(bool)
    missing, extra = degraded(extent, np.random.default_rng(0))
    assert missing.sum() == extent.sum() - extent.sum() // 2
    assert not (missing & ~extent).any()
    assert extra.sum() == 2 * extent.sum()
    assert extra[extent].all()
    similarity = np.where(extent, 5.0, 1.0)
    changed = as_similarity(similarity, extent, missing, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, np.where(missing, 5.0, 1.0))
    changed = as_similarity(similarity, extent, extra, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, np.where(extra, 5.0, 1.0))


def test_measures_differ_in_what_they_notice():
    """Of a noisy unit, the area under the curve does not notice that half of the labels miss."""
    draw = np.random.default_rng(3)
    noticed = {name: [] for name in ("pearson", "auprc", "auc", "iou")}
    for seed in range(40):
        extent = draw.random(600) < 0.04
        readouts = draw.standard_normal(600) + 1.5 * extent
        for name, found in noticed.items():
            found.append(drops(OF_EXTENTS[name], readouts, extent, seed))
    missing, extra = ({n: np.mean(f, axis=0)[i] for n, f in noticed.items()} for i in (0, 1))
    assert min(extra.values()) > 0.8
    assert min(missing["pearson"], missing["auprc"]) > 0.85
    assert missing["auc"] < 0.8
    assert drops(pearson, np.arange(600.0), np.zeros(600, bool), 0) is None


@pytest.fixture(scope="module")
def units():
    return synthetic_units("one", "broad", 0, "synthetic/24")[0]


def test_values_of_units_and_words_are_computed_once(units):
    rows = np.arange(5)
    calls = []

    def counted(readouts, concepts):
        calls.append(concepts.shape[1])
        return pearson(readouts, concepts)

    marks = units.unseen.annotations.astype(float)
    scored = Scored(counted, units.unseen.readouts[:, rows], lambda w: marks[:, w], marks.shape[1])
    words = np.array([3, 1, 4, 1, 5])
    scored.fill(np.stack([words, words, words + 1], 1))
    found = scored.of(words)
    assert calls == [2] * 5
    readouts = units.unseen.readouts.astype(float)
    pairs = zip(rows, words, strict=True)
    expected = [plain_pearson(readouts[:, r].tolist(), marks[:, w].tolist()) for r, w in pairs]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_right_words_are_preferred_to_wrong_ones(units):
    rows = np.flatnonzero(units.right.any(1))
    right = units.right[rows].argmax(1)
    wrong = np.where(units.right[rows], -1, np.arange(40)).max(1)
    scored = of_extents(units, rows) | {"simulation": of_similarities(units, units, rows)}
    assert set(scored) == {*OF_EXTENTS, "phi", "simulation"}
    single = sum(kind in ("detector", "channel") for kind in units.kind)
    for name, one in scored.items():
        found = prefers_right(one, units, rows, {"a": wrong, "the same": right})
        assert len(found) == 2 * single
        assert (found[single:] == 0.5).all(), name
        assert found[:single].mean() > 0.9, name
        dropped = sanity(one, units, rows)
        assert dropped.shape == (len(rows), 2)
        assert dropped[:, 1].mean() > 0.8, name
