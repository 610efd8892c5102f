"""Hits of labels, and their intervals."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binomtest

from semlens.errors import DataError
from semlens.lenses.labelling.hits import (
    hit_chance,
    hit_table,
    truths_of,
)
from semlens.lenses.statistics.intervals import clustered_shares


def plain_chance(scores, right, count):
    """Average over all orders of the words that sort by score."""
    hits = [
        right[list(order)[:count]].any()
        for order in permutations(range(len(scores)))
        if (np.diff(scores[list(order)]) <= 0).all()
    ]
    return np.mean(hits)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_hit_is_a_right_word_among_the_best_with_ties_in_random_order(count):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (60, 6)).astype(np.float32)
    right = rng.random((60, 6)) < 0.3
    expected = [plain_chance(s, r, count) for s, r in zip(scores, right, strict=True)]
    np.testing.assert_allclose(hit_chance(scores, right, count), expected, atol=1e-12)


def test_hits_of_a_method_that_says_nothing_are_those_of_chance():
    right = np.zeros((4, 1000), bool)
    right[:3, :2] = True
    exact, top5 = hit_table(np.zeros((4, 1000)), right)
    np.testing.assert_allclose(exact, [0.002] * 3 + [0])
    np.testing.assert_allclose(top5[:3], 1 - (998 * 997 * 996 * 995 * 994) / np.prod(
        np.arange(1000, 995, -1.0)
    ))  # fmt: skip
    few = hit_table(np.array([[3.0, 1.0, 2.0]]), np.array([[False, True, False]]))
    assert few.exact[0] == 0 and few.top5[0] == 1  # fewer than five words


def test_impossible_scores_are_refused():
    for scores in (np.zeros((2, 0)), np.full((2, 4), np.nan)):
        with pytest.raises(DataError, match="words, and"):
            hit_table(scores, np.zeros(scores.shape, bool))
    with pytest.raises(DataError, match="1 group"):
        clustered_shares(np.ones((3, 1)), np.zeros(3, int))


def test_truths_are_equal_sets_of_right_words():
    right = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0]], bool)
    truths = truths_of(right)
    assert truths[0] == truths[2] and len(set(truths.tolist())) == 3


@pytest.mark.parametrize("count", [3, 6, 20])
def test_intervals_cover_the_share_where_components_of_a_truth_agree(count):
    """Truths are right with a probability of .3, and all of their five components with them."""
    rng, covered, narrow = np.random.default_rng(1), 0, 0
    truths, rounds = np.repeat(np.arange(count), 5), 2000
    for _ in range(rounds):
        hits = (rng.random((5 * count, 1)) < np.repeat(rng.beta(0.3, 0.7, count), 5)[:, None]) * 1.0
        _, low, high = clustered_shares(hits, truths)
        covered += bool(low[0] <= 0.3 <= high[0])
        _, low, high = clustered_shares(hits, np.arange(5 * count))
        narrow += bool(low[0] <= 0.3 <= high[0])
    assert covered / rounds > 0.935
    assert narrow / rounds < 0.85  # as if all components were independent


def test_independent_samples_have_the_exact_interval():
    """Clopper and Pearson's, if each sample is a cluster of its own: no correction is needed."""
    hits = np.arange(40)[:, None] < 13
    share, low, high = clustered_shares(hits.astype(float), np.arange(40))
    exact = binomtest(13, 40).proportion_ci()
    assert share[0] == pytest.approx(13 / 40)
    # the variance of the sample has 39 degrees of freedom: 1/40 less independent samples
    assert (low[0], high[0]) == pytest.approx((exact.low, exact.high), abs=0.003)


def test_shares_of_none_and_of_all_have_an_interval():
    hits = np.array([[0.0, 1.0]] * 20)
    share, low, high = clustered_shares(hits, np.arange(20) // 2)
    assert share.tolist() == [0, 1] and low[0] == 0 and high[1] == 1
    # of ten truths none is right with a probability of 2.5 %
    assert (1 - high[0]) ** 10 == pytest.approx(0.025)
    assert low[1] ** 10 == pytest.approx(0.025)
