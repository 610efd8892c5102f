"""Merge laws of the streaming statistics, against a full sort and plain float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semlens.streaming.statistics import Moments, TopExamples, batch_statistics

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, -1e-38, 3.4e38, -3.4e38, 2.0, 1e-45])


@st.composite
def readouts(draw: st.DrawFn) -> torch.Tensor:
    """Readouts [samples components] full of ties and signed zeros, with some NaN and inf."""
    samples, components = draw(st.integers(1, 24)), draw(st.integers(1, 4))
    odd = st.sampled_from([float("nan"), float("inf"), -float("inf")])
    numbers = st.one_of(VALUES, st.floats(width=32, allow_nan=False, allow_infinity=False), odd)
    flat = draw(st.lists(numbers, min_size=samples * components, max_size=samples * components))
    return torch.tensor(flat, dtype=torch.float32).reshape(samples, components)


def full_sort(values: np.ndarray, m: int) -> list[tuple[int, float]]:
    """The m best (sample, value) by (-value, sample) among the finite ones."""
    kept = [(i, float(v)) for i, v in enumerate(values) if np.isfinite(v)]
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:m]


def stream(values: torch.Tensor, cuts: list[int], m: int, order: list[int]) -> TopExamples:
    positions = torch.arange(values.numel(), dtype=torch.int32).reshape(values.shape)
    edges = [0, *sorted(cuts), len(values)]
    parts = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        top = TopExamples.empty(values.shape[1], m)
        rows = slice(start, stop)
        parts.append(top.update(values[rows], torch.arange(start, stop), positions[rows]))
    joined = TopExamples.empty(values.shape[1], m)
    for i in order:
        joined = joined.merge(parts[i % len(parts)]) if i < len(parts) else joined
    return joined


def test_late_shards_change_few_components_and_the_result_is_still_a_full_sort():
    values = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))
    values[200:, 40:] -= 10  # these components have their best samples in the first half
    top = stream(values, list(range(8, 400, 8)), 5, list(range(50)))
    for c in range(50):
        best = full_sort(values[:, c].numpy(), 5)
        assert top.sample[c].tolist() == [i for i, _ in best]
        assert top.position[c].tolist() == [i * 50 + c for i, _ in best]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(readouts(), st.lists(st.integers(0, 24), max_size=4), st.integers(1, 9), st.randoms())
def test_top_equals_a_full_sort_in_any_order(values, cuts, m, random):
    cuts = [min(cut, len(values)) for cut in cuts]
    order = list(range(len(cuts) + 1))
    random.shuffle(order)
    top = stream(values, cuts, m, order)
    for c in range(values.shape[1]):
        expected = full_sort(values[:, c].numpy(), m)
        count = int(top.count[c])
        assert count == len(expected)
        assert top.sample[c, :count].tolist() == [i for i, _ in expected]
        assert top.strength[c, :count].tolist() == [v for _, v in expected]
        assert torch.isinf(top.strength[c, count:]).all()
        places = [i * values.shape[1] + c for i, _ in expected]
        assert top.position[c, :count].tolist() == places
        assert (top.sample[c, count:] == 2**32 - 1).all()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.randoms())
def test_moments_are_bit_identical_for_any_shards_and_order(batches, seed, random):
    generator = torch.Generator().manual_seed(seed)
    leaves = []
    for _ in range(batches):
        values = torch.randn(5, 3, generator=generator) * 1e3
        leaves.append(batch_statistics(values, torch.stack([values, -values])))
    whole = Moments()
    for i, block in enumerate(leaves):
        whole = whole.update(i, block)
    shards: list[Moments] = []
    start = 0
    while start < batches:
        stop = min(batches, start + random.randint(1, 7))
        shard = Moments()
        for i in range(start, stop):
            shard = shard.update(i, leaves[i])
        shards.append(shard)
        start = stop
    random.shuffle(shards)
    joined = Moments()
    for shard in shards:
        joined = joined.merge(shard)
    for name, value in vars(whole.total()).items():
        assert torch.equal(value, getattr(joined.total(), name)), name


def test_moments_equal_plain_float64():
    values = torch.randn(37, 4, generator=torch.Generator().manual_seed(1))
    values[3, 1] = torch.nan
    values[9, 2] = torch.inf
    moments = Moments()
    for i, start in enumerate(range(0, 37, 5)):
        part = values[start : start + 5]
        moments = moments.update(i, batch_statistics(part, torch.stack([part, -part])))
    total = moments.total()
    for c in range(4):
        column = values[:, c].numpy().astype(np.float64)
        column = column[np.isfinite(column)]
        assert int(total.count[c]) == len(column)
        np.testing.assert_allclose(total.mean[c], column.mean(), rtol=1e-12)
        np.testing.assert_allclose(total.m2[c], ((column - column.mean()) ** 2).sum(), rtol=1e-12)
        assert float(total.maximum[c]) == np.float32(column.max())
        assert float(total.minimum[c]) == np.float32(column.min())
        assert total.fired[:, c].tolist() == [(column > 0).sum(), (column < 0).sum()]


def test_moments_of_an_unreadable_batch_keep_the_tree_aligned():
    none = torch.zeros(0, 2)
    moments = Moments().update(0, batch_statistics(none, torch.zeros(2, 0, 2)))
    some = torch.tensor([[1.0, -2.0]])
    moments = moments.update(1, batch_statistics(some, torch.stack([some, -some])))
    assert list(moments.blocks) == [(1, 0)]
    assert moments.total().mean.tolist() == [1.0, -2.0]
