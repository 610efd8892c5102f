"""Shared statistics against independent computations in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from semlens.lenses.statistics.intervals import change_interval, wilson_interval
from semlens.lenses.statistics.outliers import moderated_p_values
from semlens.lenses.statistics.permutation import permutation_p


def test_a_permutation_p_is_that_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.8, size=9), rng.normal(size=7)
    draws = 499

    def difference(x, y, axis):
        return x.mean(axis) - y.mean(axis)

    expected = stats.permutation_test(
        (first, second), difference, n_resamples=draws, alternative="greater", rng=1
    )
    reached = int((expected.null_distribution >= expected.statistic).sum())
    assert permutation_p(reached, draws) == pytest.approx(expected.pvalue, abs=1e-12)
    np.testing.assert_array_equal(permutation_p(np.array([0, draws]), draws), [1 / 500, 1.0])


def test_permutation_p_values_are_valid_where_there_is_nothing_to_find():
    """An observed value that is one more draw: at most ``a`` in a share of ``a``."""
    rng = np.random.default_rng(2)
    values = rng.normal(size=(20_000, 20))
    p = permutation_p((values[:, 1:] >= values[:, :1]).sum(1), 19)
    for level in (0.05, 0.25, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * np.sqrt(level / 20_000))


@pytest.mark.parametrize(("hits", "count"), [(0, 12), (3, 12), (12, 12), (311, 4000)])
def test_a_proportion_has_the_interval_of_scipy(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits, count) == pytest.approx(tuple(expected), abs=1e-6)


def test_the_change_of_a_proportion_is_that_of_newcombe():
    """Newcombe (1998), table II, method 10: 56/70 against 48/80 is 0.2000 (0.0524, 0.3339)."""
    now, before = np.arange(70) < 56, np.arange(80) < 48
    assert change_interval(now, before, paired=False) == pytest.approx(
        (0.2, 0.0524, 0.3339), abs=5e-5
    )


def bonett_and_price(gained, lost, count):
    """The interval by its equation (Bonett and Price 2012, Laplace's estimates)."""
    p, q = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = stats.norm.ppf(0.975) * np.sqrt((p + q - (p - q) ** 2) / (count + 2))
    return max(p - q - half, -1), min(p - q + half, 1)


def changed(gained, lost, count):
    """Return images of which some become right, some wrong, and half of the others are right."""
    before = np.arange(count) % 2 == 0
    now = before.copy()
    before[: gained + lost] = np.arange(gained + lost) >= gained
    now[: gained + lost] = ~before[: gained + lost]
    return now, before


@pytest.mark.parametrize(("gained", "lost", "count"), [(0, 0, 40), (3, 9, 40), (12, 0, 12)])
def test_a_paired_change_has_the_interval_of_its_discordant_pairs(gained, lost, count):
    change, low, high = change_interval(*changed(gained, lost, count), paired=True)
    assert change == pytest.approx((gained - lost) / count)
    assert (low, high) == pytest.approx(bonett_and_price(gained, lost, count), abs=1e-6)
    assert low < change <= high


def test_a_paired_change_is_covered_at_any_number_of_images():
    """Over all outcomes of n pairs, without a simulation; Wald's interval has .18 to .94."""
    for count in (10, 30):
        pairs = np.array([(b, c) for b in range(count + 1) for c in range(count + 1 - b)])
        limits = [change_interval(*changed(*pair, count), paired=True)[1:] for pair in pairs]
        low, high = np.array(limits).T
        for gained, lost in [(0, 0.02), (0.02, 0.02), (0.05, 0.1), (0.3, 0), (0, 0.5)]:
            outcomes = np.column_stack([pairs, count - pairs.sum(1)])
            chances = stats.multinomial.pmf(outcomes, count, [gained, lost, 1 - gained - lost])
            held = (low <= gained - lost) & (gained - lost <= high)
            assert chances[held].sum() > 0.93, (count, gained, lost)


def test_one_measure_by_itself_is_the_t_test_of_a_new_observation():
    """Without a prior, n - 1 degrees of freedom."""
    rng = np.random.default_rng(3)
    others = rng.normal(size=(4, 1))
    distance = (2.5 - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 4))
    expected = stats.t.sf(distance, 3)
    assert moderated_p_values(np.array([2.5]), others) == pytest.approx(np.array([expected]))
