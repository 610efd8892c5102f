"""The simulations of p-values: their rates and intervals, and that they mean what they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.cases.calibration import alarms
from benchmarks.cases.calibration import tests as simulated
from benchmarks.cases.calibration.benchmark import draw_histograms, show, shown
from benchmarks.cases.calibration.demo import rotated
from benchmarks.cases.calibration.intervals import Coverage, intervals
from benchmarks.cases.calibration.rates import Rate, Simulation, any_alarm, rate
from benchmarks.worlds.meaningless import meaningless_world


@pytest.mark.parametrize("hits", [0, 1, 37, 200])
def test_intervals_are_those_of_a_binomial_test(hits):
    happened = np.arange(200)[:, None] < hits
    share, low, high = rate(happened)
    exact = binomtest(hits, 200).proportion_ci()
    assert (share, low, high) == pytest.approx((hits / 200, exact.low, exact.high), abs=1e-9)


def test_members_of_a_draw_count_as_often_as_they_are_independent():
    rng = np.random.default_rng(0)
    single = rng.random((400, 1)) < 0.2
    _, low, high = rate(single)
    assert rate(np.repeat(single, 12, axis=1))[1:] == pytest.approx((low, high), abs=1e-3)
    independent = rng.random((400, 12)) < 0.2
    exact = binomtest(int(independent.sum()), 4800).proportion_ci()
    assert rate(independent)[1:] == pytest.approx((exact.low, exact.high), abs=0.004)


def test_alarms_of_classes_that_are_tested_together():
    rng = np.random.default_rng(0)
    p_values = rng.random((300, 6)) ** 3
    for found, row in zip(any_alarm(p_values, "bonferroni"), p_values, strict=True):
        assert found == any(6 * p < 0.05 for p in row)
    for found, row in zip(any_alarm(p_values, "sweep"), p_values, strict=True):
        assert found == any(6 * p / rank < 0.05 for rank, p in enumerate(sorted(row), start=1))


def test_a_rotation_keeps_angles_and_has_no_direction():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 8))
    turned = np.stack([rotated(rng, vectors) for _ in range(3000)])
    np.testing.assert_allclose(turned @ turned.swapaxes(1, 2), [vectors @ vectors.T] * 3000)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(turned.mean(0) / lengths).max() < 4 / np.sqrt(8 * 3000)
    np.testing.assert_allclose((turned**2).mean(0) / lengths**2, 1 / 8, rtol=0.15)


def test_concepts_of_one_topic_are_alike_and_pareto_relevance_is_concentrated():
    rng = np.random.default_rng(0)
    plain, topic = (
        [np.corrcoef(meaningless_world(rng, 6, 10, topic=t).alignments[0].T) for _ in range(20)]
        for t in (0.0, 0.9)
    )
    assert np.mean(plain) < 0.5 < np.mean(topic)
    largest = [
        np.mean([meaningless_world(rng, 6, tail=tail).shares[0].max() for _ in range(50)])
        for tail in ("log-normal", "pareto")
    ]
    assert largest[1] > 1.2 * largest[0]


@pytest.mark.slow
def test_permuting_components_has_the_right_level_only_if_they_are_independent():
    """So that the rate of the permutation in the page is not due to a fault in it."""
    rng = np.random.default_rng(0)
    p_values = {}
    for spread in ("independent", "clusters"):
        found = []
        for _ in range(150):
            made = meaningless_world(rng, 6, 5)
            if spread == "independent":
                for values in made.alignments:
                    rng.shuffle(values)
            found.append(simulated.permutation_p_value(rng, made.layers, made.alignments, 0))
        p_values[spread] = np.array(found)
    assert (p_values["independent"] < 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    assert (p_values["clusters"] < 0.05).mean() > 0.15


@pytest.mark.parametrize(
    "part",
    [
        simulated.random_lists, simulated.group_contrasts, simulated.permutations,
        simulated.suspects, simulated.class_contrasts,
    ],
)  # fmt: skip
def test_simulations_are_p_values(part):
    found = list(part(np.random.default_rng(0), 2))
    assert len({(one.test, one.null) for one in found}) == len(found)
    for one in found:
        assert isinstance(one, Simulation)
        assert one.p_values.shape[0] == 2
        assert ((one.p_values > 0) & (one.p_values <= 1)).all(), one.null


def test_alarms_hold_and_find_over_their_family():
    """With few draws; the benchmark has more, and the audit's."""
    rng = np.random.default_rng(0)
    swaps = [one.record(30) for one in alarms.swap_alarms(rng, 30)]
    assert {one["classes"] for one in swaps} == {5, 12, 30} and len(swaps) == 15
    assert not any(one["above"] for one in swaps)
    assert min(one["power"] for one in swaps if "spread" not in one["family"]) > 0.8
    groups = [one.record(6) for one in alarms.contrast_alarms(rng, 25)]
    assert all(one["above"] is not one["used"] for one in groups)
    assert min(one["power"] for one in groups if one["used"]) > 0.6


@pytest.mark.slow
def test_images_decide_what_contrasts_propose():
    found = itertools.islice(alarms.audit_alarms(np.random.default_rng(0), 25), 10)
    alone, decided = {}, {}
    for one in found:
        record = one.record(10)
        (decided if record["used"] else alone)[record["family"]] = record
    assert not any(one["above"] for one in decided.values())
    assert alone["exponential"]["above"] and alone["t with 3 d.f."]["above"]
    assert min(one["power"] for name, one in decided.items() if "spread" not in name) > 0.8


def test_every_interval_holds_its_truth():
    found = [one.record(60) for one in intervals(np.random.default_rng(0), 60)]
    assert len({(one["name"], one["case"]) for one in found}) == len(found) > 40
    # Wilson's holds 95 % on average over accuracies only, Fisher's for normal values
    known = {"accuracy, TCAV score", "correlation of a study"}
    below = [one for one in found if one["below"] and one["name"] not in known]
    assert not below, below
    assert all(one["coverage"] > 0.7 for one in found)


def test_coverage_is_reported_and_a_test_below_its_level_too_often_is_bold(capsys, tmp_path):
    rates = [*simulated.verdicts(np.random.default_rng(0), 20)]
    for one in rates:
        assert isinstance(one, Rate)
        assert one.record()["rate"] == pytest.approx(one.nominal, abs=0.09), one.null
    good = Simulation("test", "uniform", np.random.default_rng(0).random((2000, 1)))
    bad = Simulation("test", "liberal", good.p_values**2, family="bonferroni")
    assert not shown(good.record(), "below_05").startswith("**")
    assert shown(bad.record(), "below_05").startswith("**")
    records = [one.record() for one in (good, bad)]
    half = np.arange(100) < 50
    covered = Coverage("AUROC", "0.5, 5 and 5 images", half).record(1)
    alarm = alarms.Alarm("swap", "normal", 5, half, half).record(1)
    assert covered["below"] and alarm["above"]
    given = {"alarms": [alarm], "comparisons": [alarm], "intervals": [covered]}
    show({"tests": records, "rates": [rates[0].record()], **given})
    printed = capsys.readouterr().out
    assert "| uniform | null | " in printed
    assert "| AUROC | 0.5, 5 and 5 images | **50.0 (" in printed
    draw_histograms([good, bad], tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 5000
