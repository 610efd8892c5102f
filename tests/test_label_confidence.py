"""Confidence of labels: its features, its fit, and what is shipped."""

from __future__ import annotations

import math
from dataclasses import replace

import labelling_oracles as oracle
import numpy as np
import pytest

import semlens as sl
from benchmarks.cases.labels.confidence import (
    FAMILIES,
    Labelled,
    bins,
    fit,
    labelled,
    measured,
    vocabularies,
)
from benchmarks.worlds.labelled.synthetic import planted
from semlens.lenses.labelling import confidence
from semlens.lenses.labelling.confidence import (
    ANY,
    FEATURES,
    as_shown,
    calibrations,
    confidence_of,
    features,
    rival,
)
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.registry import BUILT_IN


def slow_features(scores, evidence, noise):
    """Each feature by plain loops in float64."""
    words = evidence.words.astype(np.float64)
    words = oracle.unit(words - words.mean(0))
    rows = []
    for row in scores.astype(np.float64):
        order = sorted(range(len(row)), key=lambda w: -row[w])
        best = order[0]
        usual = [float(value) for value in noise[:, best]]
        mean = sum(usual) / len(usual)
        spread = math.sqrt(sum((value - mean) ** 2 for value in usual) / len(usual))
        other = [w for w in order[1:] if words[w] @ words[best] < 0.75]
        span = row[best] - np.median(row)
        margin = (min(row[best] - row[other[0]], span) if other else span) / span
        rows.append([math.asinh((row[best] - mean) / spread), margin, math.log(len(row))])
    return np.array(rows)


def test_features_are_those_of_a_slow_version():
    evidence = oracle.small(n=6, q=11)
    draw = np.random.default_rng(1)
    noise = draw.normal(0.2, 0.1, (50, 11)).astype(np.float32)
    for method in ("vote", "vote-examples"):
        scores = BUILT_IN[method].scores(evidence)
        found = features(scores, evidence, noise)
        assert np.abs(found - slow_features(scores, evidence, noise)).max() < 1e-4


def test_a_near_synonym_is_no_competitor():
    evidence = oracle.small(n=4, q=9)
    draw = np.random.default_rng(2)
    scores = draw.random((4, 9)).astype(np.float32)
    scores[:, 3] = 2
    noise = draw.random((20, 10)).astype(np.float32)
    before = features(scores, evidence, noise[:, :9])
    twin = oracle.unit(evidence.words[3] + 0.01 * draw.normal(size=8)).astype(np.float32)
    more = replace(evidence, words=np.concatenate([evidence.words, twin[None]]), annotations=None)
    wider = np.concatenate([scores, np.full((4, 1), 1.99, np.float32)], axis=1)
    after = features(wider, more, noise)
    assert after[:, 1] == pytest.approx(slow_features(wider, more, noise)[:, 1], abs=1e-5)
    assert (after[:, 1] > 0.5 * before[:, 1]).all()
    stranger = replace(more, words=np.concatenate([evidence.words, -evidence.words[3:4]]))
    assert (features(wider, stranger, noise)[:, 1] < 0.02).all()


def test_equal_scores_and_a_single_word_have_finite_features():
    evidence = oracle.small(n=3, q=1)
    found = features(np.ones((3, 1), np.float32), evidence, np.ones((4, 1), np.float32))
    assert np.isfinite(found).all()
    evidence = oracle.small(n=3, q=5)
    assert np.isfinite(
        features(np.zeros((3, 5), np.float32), evidence, np.zeros((4, 5), np.float32))
    ).all()


def synthetic(seed: int, weights=(2.0, 3.0, 0.0), bias=-3.0, rows: int = 20_000) -> Labelled:
    """Labels that are right with a known probability."""
    draw = np.random.default_rng(seed)
    found = np.stack([draw.normal(0, 1, rows), draw.random(rows), draw.normal(5, 1, rows)], axis=1)
    p = 1 / (1 + np.exp(-(bias + found @ np.array(weights))))
    right = draw.random(rows) < p
    every = np.ones(rows, bool)
    return Labelled(
        found, right, every, ~every, draw.integers(0, len(FAMILIES), rows),
        draw.integers(0, 300, rows), found[:5], f"world {seed}", "one", "none",
    )  # fmt: skip


def made(chosen, **others):
    return confidence.Calibration(
        "one", "print", "vote", {}, **{**fit(chosen), "fitted_on": {}, **others}
    )


def test_a_fit_recovers_known_probabilities():
    one, other = synthetic(0), synthetic(1)
    calibration = made([one])
    expected = 1 / (1 + np.exp(-(-3 + other.features @ np.array([2.0, 3.0, 0.0]))))
    assert np.abs(calibration.probabilities(other.features) - expected).mean() < 0.01
    result = measured("vote", "one", "other world", [(other, calibration)])
    assert result.ece < 0.015
    assert result.brier == pytest.approx((expected * (1 - expected)).mean(), abs=0.005)
    for mean, share, low, high in zip(*result.bins.values(), strict=True):
        assert low - 0.01 <= mean <= high + 0.01
        assert low <= share <= high


def test_features_that_say_nothing_give_the_share_of_right_labels():
    nothing = synthetic(0, weights=(0, 0, 0), bias=-1)
    result = measured(
        "vote", "one", "other world", [(synthetic(1, (0, 0, 0), -1), made([nothing]))]
    )
    share = 1 / (1 + math.e)
    assert result.right == pytest.approx(share, abs=0.01)
    assert result.auroc == pytest.approx(0.5, abs=0.02)
    assert result.brier == pytest.approx(result.brier_base, abs=0.002)
    assert max(result.above_half.values()) == 0


def test_values_beyond_the_range_of_the_fit_count_as_its_bounds():
    calibration = made([synthetic(0)])
    far = np.array([calibration.high, np.add(calibration.high, 100)])
    assert len(set(calibration.probabilities(far))) == 1


def test_bins_are_means_of_equal_weights():
    draw = np.random.default_rng(0)
    p, weight, group = draw.random(500), draw.random(500), draw.integers(0, 40, 500)
    right = draw.random(500) < p
    found = bins(p, right, weight, group)
    order = sorted(range(500), key=lambda i: p[i])
    total, seen = weight.sum(), 0.0
    slow: list[list[int]] = [[] for _ in range(10)]
    for i in order:
        slow[min(int(10 * (seen + weight[i] / 2) / total), 9)].append(i)
        seen += weight[i]
    for b, rows in enumerate(slow):
        w = weight[rows]
        assert found["weight"][b] == pytest.approx(w.sum() / total)
        assert found["mean"][b] == pytest.approx((w * p[rows]).sum() / w.sum())
        assert found["share"][b] == pytest.approx((w * right[rows]).sum() / w.sum())
        assert found["low"][b] <= found["share"][b] <= found["high"][b]


def test_each_unit_loses_its_words_once():
    draw = np.random.default_rng(0)
    accepted = draw.random((12, 600)) < 0.01
    truth = np.arange(12)
    truth[9:] = [-1, -2, -3]
    accepted[9:] = False
    accepted[truth[:9], truth[:9]] = True
    families, words, judged = zip(*vocabularies(accepted, truth, 0), strict=True)
    assert families == (0, 1, 1, 1, 1, 2, 2, 2, 2)
    assert len(words[0]) == 600
    assert [len(w) for w in words[5:]] == [100, 200, 350, 500]
    assert np.sum(judged[1:5], axis=0).tolist() == [1] * 9 + [0] * 3
    for some, rows in zip(words[1:5], judged[1:5], strict=True):
        assert not accepted[np.ix_(rows, some)].any()
        assert len(some) > 550


def test_units_are_judged_by_the_words_that_are_left():
    units = planted(0, "a")
    found = labelled(units, BUILT_IN["vote-examples"], "none")
    whole, removed = found.family == 0, found.family == 1
    assert len(found) == 30 + 20
    assert found.right[whole & ~found.noise].mean() > 0.8
    assert not found.right[found.noise].any()
    assert not found.right[~found.possible].any()
    assert not found.possible[removed].any()
    assert found.weight.sum() == pytest.approx(30)
    assert found.weight[whole].sum() == pytest.approx(20)
    unknown = replace(units, kind=("unknown",) * 5 + units.kind[5:])
    assert len(labelled(unknown, BUILT_IN["vote-examples"], "none")) == len(found) - 10


@pytest.fixture(scope="module")
def world() -> tuple[Evidence, np.ndarray]:
    made = oracle.planted(units=12, noise=0.3, images=800)
    return made.evidence, made.truth


@pytest.mark.slow
def test_what_is_shipped_belongs_to_the_embedders_and_methods_as_they_are():
    shipped = calibrations()
    specs = {"semlens/demo", "semlens/photo", ANY}
    assert {(one.embedder, one.method) for one in shipped} == {
        (spec, method) for spec in specs for method in ("vote", "vote-examples")
    }
    assert len(shipped) == 6
    for one in shipped:
        assert len(one.weights) == len(one.low) == len(one.high) == len(FEATURES)
        assert one.parameters == BUILT_IN[one.method].model_dump()  # or fit it again
        known = one.embedder != ANY
        assert one.fingerprint == (sl.load_embedder(one.embedder).fingerprint if known else "")
        assert all(low < high for low, high in zip(one.low, one.high, strict=True))
        assert not any(world.startswith("fresh") for world in one.fitted_on["worlds"])


def test_confidence_rises_with_what_speaks_for_a_word():
    for one in calibrations():
        base = (np.array(one.low) + np.array(one.high)) / 2
        for place in range(2):  # above noise, margin
            rows = np.tile(base, (5, 1))
            rows[:, place] = np.linspace(one.low[place], one.high[place], 5)
            assert (np.diff(one.probabilities(rows)) > 0).all()


def test_an_unknown_embedder_is_not_calibrated_and_another_method_has_no_confidence(world):
    evidence, _ = world
    method = BUILT_IN["vote-examples"]
    scores = method.scores(evidence)
    noise = method.scores(meaningless(evidence, 128))
    strange = confidence_of("another", "vote-examples", scores, evidence, noise)
    assert strange is not None
    assert not strange.calibrated
    assert confidence_of("another", "csp", scores, evidence, noise) is None
    print_ = sl.load_embedder("semlens/demo").fingerprint
    own = confidence_of(print_, "vote-examples", scores, evidence, noise)
    assert own is not None
    assert own.calibrated
    assert own.values.dtype == np.float32
    assert ((own.values >= 0) & (own.values <= 1)).all()


def test_confidence_is_low_without_a_meaning_and_falls_without_the_right_words(world):
    evidence, truth = world
    method = BUILT_IN["vote-examples"]

    def of(seen, scored):
        noise = method.scores(meaningless(seen, 128))
        found = confidence_of("another", "vote-examples", method.scores(scored), scored, noise)
        assert found is not None
        return found.values

    before = of(evidence, evidence)
    other = np.setdiff1d(np.arange(len(evidence.words)), truth)
    less = replace(evidence, words=evidence.words[other], annotations=None)
    assert of(less, less).mean() < 0.5 * before.mean()
    assert of(evidence, meaningless(evidence, 64, seed=5)).mean() < 0.5 * before.mean()


def test_the_rival_is_the_second_name_if_it_cannot_be_told_which_is_right():
    words, scores = ["dog", "dog", "wolf", "cat"], [1.0, 1.0, 0.95, 0.2]
    assert rival("dog", words, scores, 0.4) == "wolf"
    assert rival("dog", words, scores, 0.5) is None, "more likely right than wrong"
    assert rival("dog", words, scores, float("nan")) == "wolf", "not known"
    assert rival("dog", words, [1.0, 1.0, 0.89, 0.2], 0.4) is None, "a tenth is not close"
    assert rival(None, words, scores, 0.1) is None
    assert rival("dog", ["dog", "dog"], [1.0, 1.0], 0.1) is None
    assert rival("dog", ["dog", "cat"], [-1.0, -1.05], 0.1) == "cat"
    assert as_shown("dog", 0.4, "wolf") == "unsure: dog / wolf"
    assert as_shown("dog", 0.1, "wolf") == "unsure: dog / wolf?"
    assert (as_shown("dog", 0.1), as_shown("dog", 0.2), as_shown(None, 0.1)) == (
        "dog?", "dog", None,
    )  # fmt: skip
