"""The standing of a class: from p and q, the same words everywhere, and calibrated."""

from __future__ import annotations

import numpy as np
import pytest

from semlens.lenses.audit.class_verdict import Experiment, class_verdict, class_verdicts, overall
from semlens.wording import CURLY

NAN = float("nan")


def row(p, name="piano", suspect="sticker", concept="sticker", share=0.07, evidence=None):
    """What was proposed was tested on images, unless other evidence is given."""
    by_p = "random lists" if suspect is None else "images" if p <= 0.05 else "contrast"
    return {
        "evidence": evidence or by_p,
        "class": name, "p_value": p, "suspect": suspect, "spurious": share, "both": 0.0,
        "concept": concept, "concept_share": share if concept else NAN,
    }  # fmt: skip


def all_of(rows, experiments=None):
    return class_verdicts(rows, [0.05] * len(rows), experiments or [()] * len(rows))


def border(p, experiments=1):
    act = "pasted onto other images, raise"
    return Experiment("border swap", "the borders of its images", act, p, 24, experiments)


def adjusted(p_values):
    """Adjust p-values by the definition of Benjamini and Hochberg."""
    p = np.asarray(p_values)
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.minimum(q, 1)


def test_q_is_that_of_all_classes_and_decides():
    p = np.random.default_rng(0).random(12) ** 3
    p[3] = NAN  # no spurious concepts on its list: it was not tested
    found = all_of([row(one, f"class {i}") for i, one in enumerate(p)])
    tested = ~np.isnan(p)
    expected = np.full(12, NAN)
    expected[tested] = adjusted(p[tested])
    np.testing.assert_allclose([one.q_value for one in found], expected)
    for one, value, q in zip(found, p, expected, strict=True):
        if np.isnan(value):
            assert one.kind == "no verdict"
            continue
        kinds = {True: "alarm", False: "suspicion" if value <= 0.05 else "no alarm"}
        assert one.kind == kinds[bool(q <= 0.05)]
        assert one.tested == 11


def test_one_sentence_where_a_class_is_suspicious_alone_and_not_among_all():
    others = [0.3, 0.5, *np.linspace(0.6, 0.99, 9)]
    alone, among = class_verdict(row(0.01152), [], 0.05), class_verdict(row(0.01152), others, 0.05)
    assert (alone.kind, among.kind) == ("alarm", "suspicion")
    assert alone.sentence() == (
        "'piano' relies on 'sticker' more than the other classes do: the regions of its images "
        "that match it, pasted onto other images, raise its logit (p = 0.012, tested alone)."
    )
    assert among.q_value == pytest.approx(0.01152 * 12)
    assert among.sentence(CURLY).replace("\u00a0", " ") == (
        "“piano” may rely on “sticker” more than the other classes do, but the regions of its "
        "images that match it, pasted onto other images, do not clearly raise its logit "
        "(p = 0.012 alone; q = 0.138 over 12 classes)."
    )
    assert among.shares() == (
        "Components that match spurious concepts carry 7 % of its relevance over all layers "
        "('sticker' 7 %)."
    )
    assert among.headline() == "may rely on 'sticker'"
    everything = overall([among, *(class_verdict(row(p, f"c{p}"), others, 0.05) for p in others)])
    assert everything == (
        "None of 12 classes raises the alarm, but 1 is suspicious: 'piano' may rely on 'sticker'."
    )


def test_without_other_classes_the_test_is_against_random_words():
    found = class_verdict(row(0.002, suspect=None), [], 0.05)
    assert "relies on its spurious concepts more than on random ones (p = " in found.sentence()
    assert "does not clearly rely" in class_verdict(row(0.4, suspect=None), [], 0.05).sentence()
    unmatched = class_verdict(row(0.4, concept=None), [0.5], 0.05)
    assert unmatched.shares() == "No relevant component matches a spurious concept."
    assert "relies on no spurious concept clearly more" in unmatched.sentence()


def test_a_contrast_proposes_and_images_decide():
    """However small a contrast's p-value is, without images it is a suspicion at most."""
    untested = class_verdict(row(1e-9, evidence="contrast"), [], 0.05)
    assert untested.kind == "suspicion"
    assert "; that could not be tested on images (p < 0.0001" in untested.sentence()
    refuted = class_verdict(row(0.7, evidence="images"), [0.9], 0.05)
    assert refuted.kind == "suspicion"
    assert (
        "pasted onto other images, do not clearly raise its logit (p = 0.700" in refuted.sentence()
    )
    assert class_verdict(row(0.7), [0.9], 0.05).kind == "no alarm"
    chance = class_verdict(row(0.04, suspect=None), [0.9], 0.05)
    assert chance.kind == "suspicion" and "with 2 classes tested this may be" in chance.sentence()


@pytest.mark.parametrize(
    ("p", "kind", "said"),
    [
        (0.4, "suspicion", "No concept raises the alarm (p = 0.400 alone; q = 0.500 over"),
        (NAN, "suspicion", "No spurious concept is listed, but the border swap finds that"),
        (1e-6, "alarm", "Besides, the border swap finds that"),
        (
            0.04,
            "suspicion",
            "raise its logit (p = 0.040 alone; q = 0.080 over 2 classes). Besides,",
        ),
    ],
)
def test_a_significant_experiment_is_a_suspicion_at_least(p, kind, said):
    found = class_verdict(row(p, "fruit"), [0.5], 0.05, [border(0.0026), border(0.03)])
    assert found.kind == kind
    assert said in found.sentence()
    assert found.sentence().endswith(
        "the borders of its images, pasted onto other images, raise the logit of 'fruit' "
        "(p = 0.0026, corrected for 24 tests in 1 experiment)."
    )
    quiet = class_verdict(row(p, "fruit"), [0.5], 0.05, [border(0.051)])
    assert quiet.found is None
    assert "border" not in quiet.sentence()


def test_classes_are_ranked_by_evidence_and_named_in_one_sentence():
    p = [0.9, 1e-6, 0.4, 1e-5, NAN]
    said = [[], [], [border(0.001)], [], []]
    found = all_of([row(one, f"c{i}") for i, one in enumerate(p)], said)
    ranked = sorted(found, key=lambda one: one.rank)
    assert [one.name for one in ranked] == ["c1", "c3", "c2", "c0", "c4"]
    assert overall(found) == (
        "2 of 5 classes raise the alarm: 'c1' relies on 'sticker'; 'c3' relies on 'sticker'. "
        "Suspicious: 'c2' relies on the borders of its images."
    )
    assert overall([found[0], found[4]]) == (
        "None of 2 classes raises the alarm. The closest is 'c0', 'sticker' "
        "(p = 0.900 alone; q = 0.900 over 4 classes)."
    )
    many = all_of([row(1e-6, f"c{i}") for i in range(5)])
    assert overall(many).endswith("'c2' relies on 'sticker'; and 2 more.")
    assert "No class has spurious concepts" in overall([found[4]])


@pytest.mark.slow
def test_where_nothing_is_to_be_found_few_families_have_an_alarm():
    """Null simulation: 12 independent classes, their p-values uniform; and 3 experiments."""
    rng, families = np.random.default_rng(1), 2000
    alarms = experiments = 0
    for _ in range(families):
        p, swaps = rng.random(12), rng.random((12, 2, 3))
        # Bonferroni over the 12 classes, 2 sizes and 3 experiments
        said = [[border(min(1.0, 72 * one.min()), 3)] for one in swaps]
        found = all_of([row(one, str(i)) for i, one in enumerate(p)], said)
        alarms += any(one.kind == "alarm" for one in found)
        experiments += any(one.found is not None for one in found)
    margin = 3 * np.sqrt(0.05 * 0.95 / families)
    assert abs(alarms / families - 0.05) < margin  # the correction is exact here
    assert experiments / families < 0.05 + margin
