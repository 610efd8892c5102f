"""AUROCs and family-wise p-values: against plain loops, and where there is nothing to find."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from semlens.lenses.statistics.intervals import auroc_interval, auroc_intervals
from semlens.lenses.statistics.separation import near_duplicates, permuted_groups, separate


def plain_auroc(a, b):
    return np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b])


def plain_score(ranks, groups, blocks):
    """The standardised rank sum of group a, block by block."""
    total, variance = 0.0, 0.0
    for block in set(blocks):
        mine = [i for i in range(len(ranks)) if blocks[i] == block]
        values = np.array([ranks[i] for i in mine])
        k, size = sum(groups[i] for i in mine), len(mine)
        total += sum(ranks[i] for i in mine if groups[i]) - k * values.mean()
        if size > 1:
            variance += k * (size - k) / (size * (size - 1)) * ((values - values.mean()) ** 2).sum()
    return abs(total) / np.sqrt(variance) if variance > 1e-12 else 0.0


@pytest.mark.parametrize(
    "blocks", [[0] * 9, [1, 2, 3, 4, 1, 2, 3, 4, 0], [1, 1, 0, 2, 1, 0, 2, 2, 2]]
)
def test_aurocs_and_p_values_are_those_of_plain_loops(blocks):
    random = np.random.default_rng(0)
    values = np.round(random.normal(size=(9, 4)), 1)
    values[:, 3] = 1.0  # nothing to tell apart
    blocks = np.array(blocks)
    found = separate(values[:4], values[4:], blocks, 300, seed=1)
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0)
    groups = [True] * 4 + [False] * 5
    observed = [plain_score(ranks[:, c], groups, blocks) for c in range(4)]
    largest = [
        max(plain_score(ranks[:, c], drawn.astype(bool), blocks) for c in range(4))
        for drawn in permuted_groups(np.array(groups), blocks, 300, 1)
    ]
    for c in range(4):
        assert found.auroc[c] == pytest.approx(plain_auroc(values[:4, c], values[4:, c]))
        reached = sum(value >= observed[c] - 1e-9 for value in largest)
        assert found.p_value[c] == pytest.approx((1 + reached) / 301)
    assert found.p_value[3] == 1
    assert found.auroc[3] == 0.5


def test_permutations_stay_within_blocks_and_are_all_alike():
    in_first = np.array([True, True, False, False, False, True])
    blocks = np.array([0, 0, 0, 1, 1, 1])
    drawn = permuted_groups(in_first, blocks, 6000, 0)
    assert (drawn[:, :3].sum(1) == 2).all()
    assert (drawn[:, 3:].sum(1) == 1).all()
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(kinds) == 9
    assert counts.min() > 6000 / 9 * 0.85


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 400), st.integers(1, 400))
def test_intervals_are_those_of_one_auroc(values, n, m):
    low, high = auroc_intervals(np.array(values), n, m)
    for i, value in enumerate(values):
        assert (low[i], high[i]) == pytest.approx(auroc_interval(value, n, m), abs=1e-9)
        assert low[i] == pytest.approx(plain_lower(value, n, m), abs=1e-9)
        assert high[i] == pytest.approx(1 - plain_lower(1 - value, n, m), abs=1e-9)


def plain_lower(value, n, m):
    """The root of Newcombe's equation by a library's solver."""

    def excess(true):
        spread = 1 + ((n + m) / 2 - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return value - true - norm.ppf(0.975) * np.sqrt(true * (1 - true) * spread / (n * m))

    return brentq(excess, 0.0, min(value, 1 - 1e-12), xtol=1e-13) if value > 0 else 0.0


def test_a_column_that_is_not_finite_has_no_auroc_and_changes_no_other():
    random = np.random.default_rng(0)
    values = random.normal(size=(20, 3))
    plain = separate(values[:8], values[8:], np.zeros(20, int), 200)
    values[3, 1] = np.nan
    found = separate(values[:8], values[8:], np.zeros(20, int), 200)
    assert np.isnan([found.auroc[1], found.low[1], found.high[1], found.p_value[1]]).all()
    assert found.auroc[[0, 2]].tolist() == plain.auroc[[0, 2]].tolist()


def test_chunks_change_nothing(monkeypatch):
    values = np.random.default_rng(0).normal(size=(20, 30))
    whole = separate(values[:8], values[8:], np.zeros(20, int), 200)
    monkeypatch.setattr("semlens.lenses.statistics.separation.CHUNK", 7)
    parts = separate(values[:8], values[8:], np.zeros(20, int), 200)
    assert parts.p_value.tolist() == whole.p_value.tolist()


KINDS = {
    "normal": lambda r, n, c: r.normal(size=(n, c)),
    "heavy tails": lambda r, n, c: r.standard_cauchy((n, c)),
    "mostly zero": lambda r, n, c: np.maximum(r.normal(-1, size=(n, c)), 0),
    "one factor": lambda r, n, c: r.normal(size=(n, 1)) + 0.3 * r.normal(size=(n, c)),
}


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_under_the_null_the_smallest_p_value_is_below_a_level_as_often_as_it_says(kind, paired):
    random, n, worlds = np.random.default_rng(5), 12, 400
    below = {0.05: 0, 0.2: 0}
    for world in range(worlds):
        values = KINDS[kind](random, 2 * n, 15)
        if paired:  # two versions of one image are alike
            values[n:] = values[:n] + 0.5 * KINDS[kind](random, n, 15)
            swap = random.random(n) < 0.5
            values[:n][swap], values[n:][swap] = values[n:][swap], values[:n][swap]
        blocks = np.tile(np.arange(1, n + 1), 2) if paired else np.zeros(2 * n, int)
        p = separate(values[:n], values[n:], blocks, 199, seed=world).p_value
        for level in below:
            below[level] += p.min() <= level
    for level, count in below.items():
        spread = 4 * np.sqrt(level * (1 - level) / worlds)
        share = count / worlds
        assert share < level + spread, (level, share)
        if kind != "mostly zero":  # with many ties, a test of ranks is conservative
            assert share > level - spread, (level, share)


def test_a_planted_difference_is_found_and_pairs_find_a_small_one():
    random = np.random.default_rng(0)
    base = random.normal(size=(30, 50))
    other = base + 0.1 * random.normal(size=(30, 50))
    other[:, 7] += 0.3
    pairs = separate(other, base, np.tile(np.arange(1, 31), 2), 999)
    plain = separate(other, base, np.zeros(60, int), 999)
    assert pairs.p_value[7] <= 0.01 < plain.p_value[7]
    assert (pairs.p_value < 0.05).sum() == 1


def test_p_values_of_few_images_are_those_of_all_permutations():
    values = np.array([[5.0], [4.0], [3.0], [2.0], [1.0]])
    found = separate(values[:2], values[2:], np.zeros(5, int), 20_000)
    exact = np.mean(
        [abs(sum(c) - 6) >= 3 for c in itertools.combinations(range(1, 6), 2)]  # ranks 1 to 5
    )
    assert found.p_value[0] == pytest.approx(exact, abs=0.01)


def bursts_of_five(random, scenes=8, columns=20):
    scene = np.repeat(random.normal(size=(2 * scenes, columns)), 5, axis=0)
    return scene + 0.1 * random.normal(size=scene.shape), np.repeat([0, 1], 5 * scenes)


def test_bursts_are_found_and_images_that_are_not_alike_stay_by_themselves():
    random = np.random.default_rng(0)
    values, groups = bursts_of_five(random)
    found = near_duplicates(values, groups)
    assert len(set(found.tolist())) == 16
    for start in range(0, 80, 5):
        assert len(set(found[start : start + 5].tolist())) == 1
    for kind in (random.normal, random.exponential):
        one_class = kind(size=(300, 24)) + 2 * kind(size=24)
        assert len(set(near_duplicates(one_class, np.zeros(300, int)).tolist())) == 300
    # one direction tells nothing: all images would be alike
    line = random.normal(size=(50, 1)) * np.ones((1, 30))
    assert len(set(near_duplicates(line, np.zeros(50, int)).tolist())) == 50
    apart = np.arange(80)  # images of pairs are in groups of their own
    assert len(set(near_duplicates(values, apart).tolist())) == 80


def test_bursts_change_groups_together():
    """As if each burst were one image of the burst's mean rank."""
    random = np.random.default_rng(1)
    values, groups = bursts_of_five(random)
    blocks, bursts = np.zeros(80, int), near_duplicates(values, groups)
    alarms = {None: 0, "found": 0}
    for draw in range(60):
        values, _ = bursts_of_five(random)
        for name in alarms:
            given = None if name is None else bursts
            p = separate(values[:40], values[40:], blocks, 100, draw, given).p_value
            alarms[name] += p.min() < 0.05
    assert alarms[None] > 50 and alarms["found"] <= 8


def test_the_interval_of_pairs_follows_from_their_differences():
    """Against a bootstrap over the pairs."""
    random = np.random.default_rng(2)
    scene = 2 * random.normal(size=(40, 1))
    first, second = (scene + random.normal(size=(40, 1)) + shift for shift in (0.8, 0))
    found = separate(first, second, np.tile(np.arange(1, 41), 2), 50)
    alone = separate(first, second, np.zeros(80, int), 50)
    draws = []
    for _ in range(400):
        chosen = random.integers(0, 40, 40)
        draws.append(plain_auroc(first[chosen, 0], second[chosen, 0]))
    low, high = np.quantile(draws, [0.025, 0.975])
    width = found.high[0] - found.low[0]
    assert width == pytest.approx(high - low, rel=0.25)
    assert width < 0.75 * (alone.high[0] - alone.low[0])
