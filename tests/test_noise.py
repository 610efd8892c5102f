"""Thresholds above noise, on databases whose components have random crops as examples."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import sign_files
from safetensors.torch import load_file, save_file
from scipy import stats
from scipy.stats import binomtest, ks_2samp

import semlens as sl
from benchmarks.worlds.many_components import RandomWords, Size, write
from semlens.lenses.compare.component_sets import component_sets
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.clusters import find_clusters
from semlens.lenses.describe.label_clusters import score_clusters
from semlens.lenses.noise import component_groups, label_thresholds, mixtures
from semlens.lenses.query_embedding import (
    alignment,
    directions,
    embed_concepts,
    embed_texts,
    unit,
)
from semlens.lenses.search.noise import (
    Tail,
    benjamini_hochberg,
    null_alignments,
    search_thresholds,
)
from semlens.lenses.search.query import make_query
from semlens.streaming.aggregate import aggregate_vectors

ROWS, EXAMPLES, CROPS, DIM, PLANTED = 400, 8, 600, 24, 20
CROPS_WITHOUT = np.arange(40, CROPS)
"""The first 40 crops show a word."""
WORDS = ConceptSet.of([f"{i:03d}word" for i in range(60)], name="words")


@pytest.fixture
def make(tmp_path):
    """Make a database of two layers; the first components of layer1 stand for a word."""

    def make(aggregate="mean", crops_drawn=CROPS_WITHOUT, counts=EXAMPLES, word="007word"):
        path, rng = tmp_path / "db.semlens", np.random.default_rng(5)
        embedder = RandomWords(DIM)
        write(path, Size(2, ROWS, DIM, 2, 50, CROPS, EXAMPLES, 3), embedder)
        vectors = rng.normal(size=(CROPS, DIM)) + 2 * rng.normal(size=DIM)
        vectors[:40] += 20 * embed_texts(embedder, [word], ["{}", "a {}", "{}-like"])[0]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        crops = load_file(path / "vectors/crops/0000.safetensors")
        crops["vector"] = torch.from_numpy(vectors).half()
        save_file(crops, path / "vectors/crops/0000.safetensors")
        used = np.arange(EXAMPLES) < np.broadcast_to(counts, ROWS)[:, None]
        for layer in ("layer0", "layer1"):
            table = pq.read_table(path / f"examples/{layer}.parquet")
            crop = rng.choice(crops_drawn, (ROWS, EXAMPLES))
            if layer == "layer1" and len(crops_drawn) > 1:
                crop[:PLANTED] = rng.integers(0, 40, (PLANTED, EXAMPLES))
            strength = torch.from_numpy(table["activation"].to_numpy().reshape(ROWS, -1).copy())
            theta = aggregate_vectors(
                crops["vector"][crop].float(), torch.from_numpy(used), strength, aggregate
            )
            save_file({"theta": theta.half()}, path / f"vectors/{layer}.safetensors")
            column = pa.array(crop.ravel(), pa.int64(), mask=~used.ravel())
            table = table.set_column(table.column_names.index("crop"), "crop", column)
            pq.write_table(table, path / f"examples/{layer}.parquet")
        table = pq.read_table(path / "components.parquet")
        column = pa.array(np.tile(used.sum(1), 2).astype(np.int32))
        table = table.set_column(table.column_names.index("examples"), "examples", column)
        pq.write_table(table, path / "components.parquet")
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["recipe"]["aggregate"] = aggregate
        (path / "manifest.json").write_text(json.dumps(manifest))
        sign_files(path)
        return sl.open(path, embedder=embedder)

    return make


def plain_alignment(vectors, db, concepts):
    """Eq. 4 in float64."""
    query = embed_concepts(db, concepts)

    def cosine(a, b):
        a, b = a.astype(np.float64), b.astype(np.float64)
        return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)

    return cosine(vectors, query.vectors) - cosine(vectors, query.null[None])


def plain_mixtures(db, layer, count, number, seed=99):
    """Means of random crops, in float64."""
    index, used = db.crop_index(layer)
    pool = db.crop_vectors[np.unique(index[used])].astype(np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(pool), (number, count))
    return np.mean([pool[column] for column in drawn.T], axis=0)


@pytest.mark.parametrize("aggregate", ["mean", "weighted", "median"])
def test_one_in_twenty_meaningless_components_gets_a_label_where_all_pass_the_papers(
    make, aggregate
):
    db = make(aggregate)
    calibrated, fixed = (
        db.label(WORDS, method="semantic-lens"),
        db.label(WORDS, method="semantic-lens", threshold=0.025),
    )
    meaningless = np.ones(2 * ROWS, bool)
    meaningless[ROWS : ROWS + PLANTED] = False
    share = calibrated.is_labelled[meaningless].mean()
    assert 0.02 < share < 0.08
    assert fixed.is_labelled[meaningless].mean() > 0.9
    planted = [calibrated.label(i) for i in range(ROWS, ROWS + PLANTED)]
    assert planted == ["007word"] * PLANTED


def test_the_threshold_is_the_quantile_of_the_largest_alignment_of_random_means(make):
    db = make()
    found = label_thresholds(db, db.rows("layer0")[:1], embed_concepts(db, WORDS))[0]
    largest = plain_alignment(plain_mixtures(db, "layer0", EXAMPLES, 20_000), db, WORDS).max(1)
    assert found == pytest.approx(np.quantile(largest, 0.95), abs=0.1 * largest.std())


@pytest.mark.slow
def test_a_search_has_a_hit_above_noise_in_one_of_twenty_meaningless_queries(make):
    db = make()
    rows = np.r_[db.rows("layer0"), db.rows("layer1")[PLANTED:]]
    queries = [make_query(db, f"{i:03d}item") for i in range(300)]
    hits = 0
    for query in queries:
        direction = directions(query.positive)[0]
        values = alignment(db.theta[rows], query.positive)[:, 0]
        hits += bool((values > search_thresholds(db, rows, direction, values)).any())
    low, high = binomtest(hits, len(queries)).proportion_ci(0.99)
    assert low <= 0.05 <= high + 0.02, hits


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 50])
def test_the_threshold_of_a_search_against_simulation_far_in_the_tail(make, number):
    db = make(crops_drawn=np.arange(200))  # every fifth crop shows the word: a skewed sum
    query = make_query(db, "007word")
    rows = db.rows("layer0")[:number]
    none = np.full(number, -1, np.float32)
    found = search_thresholds(db, rows, directions(query.positive)[0], none)
    assert len(set(found.tolist())) == 1
    values = alignment(
        plain_mixtures(db, "layer0", EXAMPLES, 200_000).astype(np.float32), query.positive
    )
    expected = np.quantile(values, 1 - 0.05 / number)
    assert -0.15 < (found[0] - expected) / values.std() < 0.25


@pytest.mark.parametrize("aggregate", ["mean", "weighted", "median"])
def test_null_alignments_are_those_of_mixtures(make, aggregate):
    """Of many crops by their norms, and of vectors; the two agree in distribution."""
    db = make(aggregate, crops_drawn=np.arange(200))
    query = make_query(db, "007word")
    found = null_alignments(db, "layer0", EXAMPLES, directions(query.positive)[0])
    vectors = mixtures(db, "layer0", EXAMPLES).astype(np.float32)
    expected = alignment(vectors, query.positive)[:, 0]
    assert ks_2samp(found, expected).pvalue > 0.01
    if aggregate != "median":
        assert len(found) == 16_384
        again = sl.open(db.path, embedder=db.embedder)
        direction = directions(query.positive)[0]
        np.testing.assert_array_equal(null_alignments(again, "layer0", EXAMPLES, direction), found)


@pytest.mark.parametrize(
    "true", [stats.norm(), stats.gamma(4), stats.t(8)], ids=["normal", "gamma", "t"]
)
def test_p_values_far_beyond_the_sample_are_right_within_a_factor(true):
    ratios = []
    for seed in range(40):
        tail = Tail.fit(true.rvs(size=16_384, random_state=seed))
        ratios.append([np.log(true.sf(tail.quantile(p)) / p) for p in (0.03, 1e-3, 1e-4, 1e-5)])
        values = true.isf(np.array([0.3, 1e-2, 1e-3, 1e-4]))
        p_values = tail.p_value(values)
        assert p_values[0] == pytest.approx(0.3, rel=0.1)
        for value, p_value in zip(values[1:], p_values[1:], strict=True):
            assert tail.quantile(p_value) == pytest.approx(value, abs=1e-6)
    typical = np.exp(np.median(ratios, axis=0))
    assert (typical > [0.95, 0.85, 0.6, 0.4]).all(), typical
    assert (typical < [1.05, 1.15, 1.3, 1.7]).all(), typical


def test_a_bounded_tail_is_not_lighter_than_a_normal_one():
    sample = np.random.default_rng(0).random(16_384)
    tail = Tail.fit(sample)
    assert tail.shape == -0.1
    assert tail.quantile(1e-6) > 1  # conservative: no value reaches it
    assert tail.p_value(np.array([0.99]))[0] == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("shape", [-0.1, -1e-3, 0.0, 1e-3, 0.25, 1.0])
def test_the_tail_is_the_generalised_pareto_distribution(shape):
    sample = np.sort(np.random.default_rng(0).normal(size=1000))
    tail = Tail(sample, start=2.0, share=0.02, shape=shape, scale=0.3)
    true = stats.genpareto(shape, scale=0.3)
    values = np.array([2.001, 2.1, 2.5, 3.0, 5.5, 80.0])  # with -0.1, it ends at 5
    np.testing.assert_allclose(tail.p_value(values), 0.02 * true.sf(values - 2), rtol=1e-9)
    for p_value in (0.019, 1e-3, 1e-7):
        assert tail.quantile(p_value) == pytest.approx(2 + true.isf(p_value / 0.02), rel=1e-9)


@pytest.mark.parametrize("word", ["007word", "012item", "000item"])
def test_p_values_that_are_left_out_change_no_threshold(make, word):
    db = make()
    rows = np.random.default_rng(0).permutation(np.flatnonzero(db.has_examples))
    direction = make_query(db, word).direction
    values = db.products(direction[None], rows)[:, 0]
    p_values, tails = np.ones(len(rows)), np.empty(len(rows), object)
    for layer, count, positions in component_groups(db, rows):
        tails[positions] = tail = Tail.fit(null_alignments(db, layer, count, direction))
        p_values[positions] = tail.p_value(values[positions].astype(np.float64) - 1e-6)
    found = np.sort(p_values) <= 0.05 * np.arange(1, len(rows) + 1) / len(rows)
    least = 0.05 * max(int(np.flatnonzero(found)[-1]) + 1 if found.any() else 1, 1) / len(rows)
    expected = [tail.quantile(least) + 1e-6 for tail in tails]
    np.testing.assert_allclose(search_thresholds(db, rows, direction, values), expected, rtol=1e-6)


def test_discoveries_are_those_of_benjamini_and_hochberg():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p_values = rng.random(40) ** 3
        expected = stats.false_discovery_control(p_values) <= 0.05
        np.testing.assert_array_equal(p_values <= benjamini_hochberg(p_values), expected)
    assert benjamini_hochberg(np.array([0.9, 0.8])) == 0.025  # of a single discovery


def test_one_in_twenty_hits_is_false_where_components_of_a_word_are_among_others(make):
    """The planted components and 380 without a meaning, 300 times."""
    db = make(crops_drawn=np.arange(CROPS))
    query = make_query(db, "007word")
    direction = directions(query.positive)[0]
    rng, rows = np.random.default_rng(3), db.rows("layer1")
    pool = plain_mixtures(db, "layer0", EXAMPLES, 30_000).astype(np.float32)
    noise = alignment(pool, query.positive)[:, 0]
    real = alignment(db.theta[rows[:PLANTED]], query.positive)[:, 0]
    false, found = [], []
    for _ in range(300):
        values = np.r_[real, rng.choice(noise, ROWS - PLANTED)].astype(np.float32)
        hit = values > search_thresholds(db, rows, direction, values)
        false.append(hit[PLANTED:].sum() / max(hit.sum(), 1))
        found.append(hit[:PLANTED].mean())
    assert 0.03 < np.mean(false) < 0.065  # 5 % of the share without a meaning
    assert np.mean(found) > 0.95


def test_hits_say_whether_they_are_above_noise(make, monkeypatch):
    # no made-up word has a digit: then mixtures alone decide
    known = lambda self, text: any(letter.isdigit() for letter in text)  # noqa: E731
    monkeypatch.setattr(RandomWords, "understands", known)
    db = make()
    hits = db.search("007word", top=30)
    assert all(hit.above_noise for hit in hits.hits[:PLANTED])
    assert PLANTED <= hits.above_noise <= PLANTED + 3
    frame = hits.to_pandas()
    assert (frame["above_noise"] == (frame["alignment"] > frame["noise"])).all()
    assert hits.to_json()["above_noise"] == hits.above_noise
    assert hits.to_json()["hits"][0]["above_noise"] is True
    assert f"{hits.above_noise} components stand out from noise." in str(hits)
    few = db.search("007word", top=3, layers="layer0")
    assert few.above_noise == 0 and "No component stands out from noise." in str(few)
    assert "closest anyway" in str(few) and "image" in str(few)
    negative = db.search("003word", without="007word", top=1)
    assert negative[0].noise != db.search("003word", top=1)[0].noise
    like = db.search(like=hits[0].component, top=5)
    assert like[0].above_noise and like[0].row in range(ROWS, ROWS + PLANTED)


def test_fewer_examples_need_a_higher_alignment(make):
    counts = np.tile([0, 1, 3, 4, EXAMPLES], ROWS // 5)
    db = make(counts=counts)
    values = label_thresholds(db, db.rows("layer0"), embed_concepts(db, WORDS))
    by_count = {int(n): set(values[counts == n].tolist()) for n in np.unique(counts)}
    assert max(by_count[0]) < 1e-5
    assert by_count[3] == by_count[4]  # four crops are compared with mixtures of three
    single = [by_count[n].pop() for n in (1, 3, EXAMPLES)]
    assert single == sorted(single, reverse=True)
    labels = db.label(WORDS, layers="layer0", method="semantic-lens")
    assert len(labels) == np.count_nonzero(counts)
    assert labels.is_labelled.mean() < 0.08


def test_with_a_single_crop_nothing_is_above_noise(make):
    db = make(crops_drawn=np.array([50]))
    assert db.label(WORDS).labelled == 0
    assert db.label(WORDS, method="semantic-lens").labelled == 0
    assert db.search("007word").above_noise == 0


def test_mixtures_are_kept_and_equal_in_every_session(make):
    db = make()
    first = mixtures(db, "layer1", EXAMPLES)
    labels = db.label(WORDS, method="semantic-lens")
    assert len(list((db.path / "analysis").glob("noise-*.parquet"))) == 2
    again = sl.open(db.path, embedder=db.embedder)
    np.testing.assert_array_equal(mixtures(again, "layer1", EXAMPLES), first)
    found = again.label(WORDS, method="semantic-lens")
    np.testing.assert_array_equal(found.thresholds, labels.thresholds)


@pytest.mark.parametrize("method", ["semantic-lens", "vote-examples"])
def test_clusters_of_meaningless_components_have_no_labels(make, method):
    db = make()
    (components,) = component_sets([db])
    rows = components.rows
    clusters = np.full(len(rows), -1)
    clusters[rows < ROWS] = find_clusters(unit(db.theta[:ROWS]), "kmeans", 40, seed=0)
    clusters[ROWS : ROWS + PLANTED] = 40
    scores = score_clusters([components], clusters, WORDS, method)
    found = [scores.labels(cluster, 2) for cluster in range(41)]
    assert next(iter(found[40])) == "007word"
    assert np.mean([len(labels) > 0 for labels in found[:40]]) <= 0.1


def test_dissection_counts_labels_above_noise(make):
    db = make()
    found, labels = db.dissect(concepts=WORDS, confidence=0.0), db.label(WORDS)
    assert found.sizes["labelled"].sum() == labels.labelled
    assert found.sizes["labelled"].tolist()[0] < 0.08 * ROWS
    assert found.to_json()["threshold"] is None
    gap = found.gaps[~found.gaps["outdone"]].iloc[0]
    least = labels.thresholds[db.rows_of(gap["nearest"])[0]]
    assert gap["score"] <= least
