"""Searches by words against made-up words: false hits, and thresholds by plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor
from scipy.stats import binomtest

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.lenses.noise import LEVEL
from semlens.lenses.query_embedding import SEARCH_TEMPLATES
from semlens.lenses.search.made_up import (
    FEWEST,
    REACHES,
    WORDS,
    made_up_thresholds,
    made_up_words,
    measured_reach,
)
from semlens.lenses.search.query import make_query
from semlens.lenses.search.search import alignments, rank
from semlens.models.subject import SubjectModel

HELD_OUT = 100


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    path = tmp_path_factory.mktemp("made-up") / "db"
    layers = ["first", "second"]
    return sl.build(path, subject, ImageFolder(pictures), WordEmbedder(), layers, examples=6)


def values_of(db, words):
    """Alignment of each component with each word, in float64 and one by one."""
    return np.stack([alignments(db, make_query(db, word)) for word in words], 1).astype(np.float64)


def test_made_up_words_are_different_and_always_the_same():
    spoken, unspoken = made_up_words()
    assert len(set(spoken)) == len(set(unspoken)) == WORDS
    assert (spoken, unspoken) == made_up_words()
    assert set(spoken).isdisjoint(made_up_words(WORDS, 1)[0][:20])
    assert all(4 <= len(word) <= 10 for word in spoken)
    assert all(3 <= len(word) <= 10 for word in unspoken)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [None, "second"])
def test_a_made_up_word_has_a_hit_in_at_most_5_percent_of_searches(db, layers):
    for kind, words in zip(("spoken", "unspoken"), made_up_words(HELD_OUT, 7), strict=True):
        some = sum(
            rank(db, make_query(db, word), top=1, layers=layers).above_noise > 0 for word in words
        )
        low, _ = binomtest(some, HELD_OUT).proportion_ci(0.99)
        assert low <= LEVEL, (kind, some)


@pytest.mark.slow
def test_differences_of_made_up_words_have_none_either(db):
    spoken, unspoken = made_up_words(HELD_OUT, 7)
    some = sum(
        rank(db, make_query(db, one, without=other), top=1).above_noise > 0
        for one, other in zip(spoken, unspoken, strict=True)
    )
    assert binomtest(some, HELD_OUT).proportion_ci(0.99)[0] <= LEVEL


@pytest.mark.slow
def test_the_threshold_of_a_search_without_a_hit_by_a_plain_loop(db):
    kinds = [values_of(db, words) for words in made_up_words()]
    every = np.concatenate(kinds, 1)
    mean, deviation = every.mean(1), every.std(1)
    limits = []
    for values in kinds:
        best = sorted(np.nanmax((values.T - mean) / deviation, axis=1))
        # the least of 192 that 95 % of 193 do not exceed
        limits.append(best[int(np.ceil(0.95 * 193)) - 1])
    rows = np.flatnonzero(db.has_examples)
    query = make_query(db, "dog")
    low = np.full(len(rows), -1, np.float32)
    found = made_up_thresholds(db, rows, query, low)
    expected = (mean + max(limits) * deviation)[rows]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_hits_of_a_search_that_has_some_by_benjamini_and_hochberg(db):
    reach = measured_reach(db, (1, 0), SEARCH_TEMPLATES)
    assert reach is not None
    rows = np.flatnonzero(db.has_examples)
    single = reach.best_hit(np.array([0, 1]))
    rng = np.random.default_rng(0)
    standard = rng.normal(size=len(rows))
    standard[:4] = single + 1, single + 0.5, single - 0.1, single - 0.2
    scores = (reach.mean[rows] + standard * reach.deviation[rows]).astype(np.float32)
    found = scores > made_up_thresholds(db, rows, make_query(db, "dog"), scores)
    every = np.concatenate([values_of(db, words) for words in made_up_words()], 1)
    null = (every - every.mean(1, keepdims=True)) / every.std(1, keepdims=True)
    p_values = []
    for row, value in zip(rows, standard, strict=True):
        layer = db.rows(db.component(int(row)).layer)
        layer = layer[db.has_examples[layer]]
        p_values.append((null[layer] >= value - 1e-6).mean())
    order = np.argsort(p_values)
    last = max(
        [k for k, at in enumerate(order, 1) if p_values[at] <= LEVEL * k / len(rows)], default=0
    )
    assert last >= 2
    assert set(np.flatnonzero(found)) == set(order[:last].tolist())


@pytest.mark.slow
def test_pictures_and_components_are_not_compared_with_words(db):
    query = make_query(db, like=["second:1"])
    rows = np.flatnonzero(db.has_examples)
    assert np.isneginf(made_up_thresholds(db, rows, query, np.zeros(len(rows), np.float32))).all()
    mixed = make_query(db, "dog", like=["second:1"])
    assert mixed.texts is None and make_query(db, ["a b", "c"], without="d").texts == (2, 1)


def test_an_embedder_that_refuses_made_up_words_needs_no_threshold(db, monkeypatch):
    known = {word for words in made_up_words() for word in words[: FEWEST - 1]} | {"dog"}
    monkeypatch.setattr(WordEmbedder, "understands", lambda self, text: text in known)
    again = sl.open(db.path, embedder=WordEmbedder())
    assert measured_reach(again, (1, 0), SEARCH_TEMPLATES) is None
    assert len(again.search("dog", top=3)) == 3


def test_only_the_last_kinds_of_searches_are_remembered(db):
    first = measured_reach(db, (1, 0), SEARCH_TEMPLATES)
    assert measured_reach(db, (1, 0), SEARCH_TEMPLATES) is first
    for terms in range(2, REACHES + 1):
        measured_reach(db, (terms, 0), SEARCH_TEMPLATES)
    assert measured_reach(db, (1, 0), SEARCH_TEMPLATES) is first  # used last
    for terms in range(REACHES + 1, 2 * REACHES + 1):
        measured_reach(db, (terms, 0), SEARCH_TEMPLATES)
    again = measured_reach(db, (1, 0), SEARCH_TEMPLATES)
    assert again is not first
    np.testing.assert_array_equal(again.mean, first.mean)


def test_hits_above_noise_come_first_on_every_page(db):
    for word in ("dog", "grass", "vodizu"):
        every = db.search(word, top=100)
        above = [hit.above_noise for hit in every.hits]
        assert above == sorted(above, reverse=True) and sum(above) == every.above_noise
        for part in (above, [not one for one in above]):
            kept = [h.alignment for h, inside in zip(every.hits, part, strict=True) if inside]
            assert kept == sorted(kept, reverse=True)
        pages = [db.search(word, top=7, offset=offset) for offset in range(0, 28, 7)]
        assert [hit for page in pages for hit in page.hits] == list(every.hits)
