"""Thresholds above noise, on databases whose components have random crops as examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import sign_files
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest

import semlens as sl
from semlens.analysis.centring import layer_means
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.describe.clusters import describe_clusters, find_clusters
from semlens.analysis.noise import label_thresholds, mixtures, search_thresholds
from semlens.analysis.query_embedding import (
    alignment,
    directions,
    embed_concepts,
    embed_texts,
    unit,
)
from semlens.analysis.search import make_query
from semlens.streaming.aggregate import aggregate_vectors

ROWS, EXAMPLES, CROPS, DIM, PLANTED = 400, 8, 600, 24, 20
CROPS_WITHOUT = np.arange(40, CROPS)
"""The first 40 crops show a word."""
WORDS = ConceptSet.of([f"{i:03d}word" for i in range(60)], name="words")


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    return __import__("scale")


@pytest.fixture
def make(scale, tmp_path):
    """Make a database of two layers; the first components of layer1 stand for a word."""

    def make(aggregate="mean", crops_drawn=CROPS_WITHOUT, counts=EXAMPLES, word="007word"):
        path, rng = tmp_path / "db.semlens", np.random.default_rng(5)
        embedder = scale.RandomWords(DIM)
        scale.write(path, scale.Size(2, ROWS, DIM, 2, 50, CROPS, EXAMPLES, 3), embedder)
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
    calibrated, fixed = db.label(WORDS), db.label(WORDS, threshold=0.025)
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
    mean = layer_means(db, "layer0")["layer0"]
    centred = label_thresholds(db, db.rows("layer0")[:1], embed_concepts(db, WORDS), centred=True)
    largest = plain_alignment(plain_mixtures(db, "layer0", EXAMPLES, 20_000) - mean, db, WORDS)
    assert centred[0] == pytest.approx(
        np.quantile(largest.max(1), 0.95), abs=0.1 * largest.max(1).std()
    )


def test_centred_labels_are_those_of_the_vectors_less_the_mean(make):
    db = make()
    labels = db.label(WORDS, layers="layer1", centred=True, candidates=2)
    theta = db.theta[db.rows("layer1")] - layer_means(db, "layer1")["layer1"]
    values = plain_alignment(theta, db, WORDS)
    np.testing.assert_allclose(labels.score[:, 0], values.max(1), atol=1e-5)
    assert (labels.concept[:, 0] == values.argmax(1)).mean() > 0.99
    assert [labels.label(i) for i in range(PLANTED)] == ["007word"] * PLANTED
    assert labels.is_labelled[PLANTED:].mean() < 0.1


def test_a_search_has_a_hit_above_noise_in_one_of_twenty_meaningless_queries(make):
    db = make()
    rows = np.r_[db.rows("layer0"), db.rows("layer1")[PLANTED:]]
    queries = [make_query(db, f"{i:03d}item") for i in range(300)]
    hits = 0
    for query in queries:
        direction = directions(query.positive)[0]
        values = alignment(db.theta[rows], query.positive)[:, 0]
        hits += bool((values > search_thresholds(db, rows, direction)).any())
    low, high = binomtest(hits, len(queries)).proportion_ci(0.99)
    assert low <= 0.05 <= high + 0.02, hits


@pytest.mark.parametrize("number", [1, 50])
def test_the_threshold_of_a_search_against_simulation_far_in_the_tail(make, number):
    db = make(crops_drawn=np.arange(200))  # every fifth crop shows the word: a skewed sum
    query = make_query(db, "007word")
    rows = db.rows("layer0")[:number]
    found = search_thresholds(db, rows, directions(query.positive)[0])
    assert len(set(found.tolist())) == 1
    values = alignment(
        plain_mixtures(db, "layer0", EXAMPLES, 200_000).astype(np.float32), query.positive
    )
    expected = np.quantile(values, 0.95 ** (1 / number))
    # never much too low; too high where the cosine saturates
    assert -0.15 < (found[0] - expected) / values.std() < 0.4


def test_hits_say_whether_they_are_above_noise(make):
    db = make()
    hits = db.search("007word", top=30)
    assert all(hit.above_noise for hit in hits.hits[:PLANTED])
    assert PLANTED <= hits.above_noise <= PLANTED + 3
    frame = hits.to_pandas()
    assert (frame["above_noise"] == (frame["alignment"] > frame["noise"])).all()
    assert hits.to_json()["above_noise"] == hits.above_noise
    assert hits.to_json()["hits"][0]["above_noise"] is True
    assert f"{hits.above_noise} of {2 * ROWS} components are above noise" in str(hits)
    few = db.search("007word", top=3, layers="layer0")
    assert few.above_noise == 0 and "None of 400 components are above noise" in str(few)
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
    labels = db.label(WORDS, layers="layer0")
    assert len(labels) == np.count_nonzero(counts)
    assert labels.is_labelled.mean() < 0.08


def test_with_a_single_crop_nothing_is_above_noise(make):
    db = make(crops_drawn=np.array([50]))
    assert db.label(WORDS).labelled == 0
    assert db.search("007word").above_noise == 0


def test_mixtures_are_kept_and_equal_in_every_session(make):
    db = make()
    first, labels = mixtures(db, "layer1", EXAMPLES), db.label(WORDS)
    assert len(list((db.path / "analysis").glob("noise-*.parquet"))) == 2
    again = sl.open(db.path, embedder=db.embedder)
    np.testing.assert_array_equal(mixtures(again, "layer1", EXAMPLES), first)
    np.testing.assert_array_equal(again.label(WORDS).thresholds, labels.thresholds)


def test_clusters_of_meaningless_components_have_no_labels(make):
    db = make()
    rows = np.r_[db.rows("layer0"), db.rows("layer1")[:PLANTED]]
    embedding = embed_concepts(db, WORDS)
    clusters = find_clusters(unit(db.theta[rows[:ROWS]]), "kmeans", 40, seed=0)
    clusters = np.r_[clusters, np.full(PLANTED, 40)]
    found = describe_clusters(
        db.theta[rows], np.zeros((len(rows), 2), np.float32), clusters, embedding,
        label_thresholds(db, rows, embedding), top=2,
    ).set_index("cluster")  # fmt: skip
    assert found.loc[40, "labels"][0] == "007word"
    assert (found.drop(40)["labels"].str.len() > 0).mean() <= 0.1


def test_dissection_counts_labels_above_noise(make):
    db = make()
    found, labels = sl.dissect(db, concepts=WORDS), db.label(WORDS)
    assert found.sizes["labelled"].sum() == labels.labelled
    assert found.sizes["labelled"].tolist()[0] < 0.08 * ROWS
    assert found.to_json()["threshold"] is None
    gap = found.gaps[~found.gaps["outdone"]].iloc[0]
    least = labels.thresholds[db.rows_of(gap["nearest"])[0]]
    assert gap["alignment"] <= least
