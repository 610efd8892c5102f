"""Hits of labels, and their intervals: coverage where two methods are equally good."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.cases.labels.hits import Bootstrap, Estimate, best_words, find_hits, judged, truths
from benchmarks.worlds.labelled.synthetic import KINDS, synthetic_units


@pytest.fixture(scope="module")
def units():
    return synthetic_units("one", "broad", 0, "synthetic/16")[0]


def test_hits_are_those_of_a_plain_loop(units):
    draw = np.random.default_rng(1)
    scores = draw.random((len(units), len(units.words)), np.float32).round(1)  # with ties
    nearly = units.right | (draw.random(units.right.shape) < 0.1)
    found = find_hits(best_words(scores), units.right, nearly)
    for unit in range(len(units)):
        words = sorted(range(len(units.words)), key=lambda w: (-scores[unit, w], w))[:5]
        assert found.exact[unit] == units.right[unit, words[0]]
        assert found.lenient[unit] == nearly[unit, words[0]]
        assert found.top5[unit] == any(units.right[unit, word] for word in words)


def test_nearly_right_words_share_their_images_with_a_right_word(units):
    marks = units.unseen.annotations.copy()
    unit, right = 0, int(units.right[0].argmax())
    marks[:, 35] = marks[:, right]
    marks[:, 36] = marks[:, right]
    marks[np.flatnonzero(~marks[:, right])[: marks[:, right].sum()], 36] = True  # one half
    seen = replace(units, unseen=replace(units.unseen, annotations=marks))
    assert seen.nearly_right[unit, [right, 35, 36]].tolist() == [True, True, False]


def test_noise_and_unknown_units_are_not_judged_and_others_have_a_right_word(units):
    rows = judged(units)
    assert [units.kind[row] for row in rows] == [k for k in KINDS if k not in ("noise", "unknown")]
    for row, word in zip(rows, truths(units, rows), strict=True):
        assert units.right[row, units.words.index(word)]
    with pytest.raises(ValueError, match="'detector', has 0 right words"):
        judged(replace(units, right=np.zeros_like(units.right)))


def test_an_estimate_of_independent_units_has_the_usual_error():
    draw = np.random.default_rng(0)
    values = draw.random(400)
    words = [f"word {number}" for number in range(400)]
    found = Bootstrap(words, 4000).mean(words, values)
    assert found.value == pytest.approx(values.mean())
    assert found.draws.std() == pytest.approx(values.std() / 20, rel=0.05)
    record = found.record("share")
    assert record["share"] - record["low"] == pytest.approx(1.96 * found.draws.std(), rel=0.1)


def test_units_of_one_word_count_as_one_observation():
    values = np.random.default_rng(0).random(50)
    words = [f"word {number}" for number in range(50)]
    bootstrap = Bootstrap(words, 200)
    alone, repeated = bootstrap.mean(words, values), bootstrap.mean(words * 6, np.tile(values, 6))
    np.testing.assert_allclose(alone.draws, repeated.draws)


def test_draws_are_shared_so_that_differences_and_means_are_paired():
    draw = np.random.default_rng(2)
    words = [f"word {number}" for number in draw.integers(0, 30, 200)]
    bootstrap = Bootstrap(words, 300)
    first = bootstrap.mean(words, draw.random(200) < 0.5)
    assert (first - first).record("difference") == {"difference": 0, "low": 0, "high": 0}
    second = bootstrap.mean(words[:80], draw.random(80) < 0.3)
    both = Estimate.mean([first, second])
    assert both.value == pytest.approx((first.value + second.value) / 2)
    np.testing.assert_allclose(both.draws, (first.draws + second.draws) / 2)


def coverage(draw: np.random.Generator, *, by_word: bool, times: int = 500) -> float:
    """Share of the intervals that cover 0, where two methods are equally good.

    60 words with 1 to 8 units, in two regimes. An embedder knows a word well or not, for both
    methods, and each method has words that it likes.
    """
    covered = 0
    for _ in range(times):
        word = np.repeat(np.arange(60), draw.integers(1, 9, 60))
        known = draw.beta(0.6, 1.0, 60)
        chance = np.clip(known + 0.3 * draw.standard_normal((2, 60)), 0, 1)
        hits = draw.random((2, 2, len(word))) < chance[:, word][:, None]
        names = [f"{w}" if by_word else f"{n}" for n, w in enumerate(word)]
        bootstrap = Bootstrap(names, 400, seed=int(draw.integers(1 << 30)))
        means = [
            Estimate.mean([bootstrap.mean(names, regime) for regime in method]) for method in hits
        ]
        found = (means[0] - means[1]).record("difference")
        covered += found["low"] <= 0 <= found["high"]
    return covered / times


@pytest.mark.slow
def test_intervals_cover_the_truth_in_95_percent_of_simulations():
    draw = np.random.default_rng(5)
    assert 0.925 <= coverage(draw, by_word=True) <= 0.975
    assert coverage(draw, by_word=False) < 0.85  # as if units of one word were independent
