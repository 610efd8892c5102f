"""Each labelling method against a slow plain version of its formula."""

from __future__ import annotations

import itertools
from dataclasses import replace

import labelling_oracles as oracle
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, LinearRegression

from semlens.errors import ConceptError
from semlens.lenses.labelling.clip_dissect import (
    WPMI,
    CosCubed,
    RankReorder,
    SoftWPMI,
    fit_temperature,
    separation,
)
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.invert import AnnotatedInvert, Invert
from semlens.lenses.labelling.linear_explanation import Correlation, LinearExplanation
from semlens.lenses.labelling.registry import RandomLabels
from semlens.lenses.labelling.semantic_lens import ContrastiveProjection, SemanticLens
from semlens.lenses.labelling.vote import ExampleVote, Vote
from semlens.lenses.labelling.weighted_dissect import WeightedDissect

CASES = {
    **{
        f"semantic-lens-{a}-{c}": (
            SemanticLens(aggregate=a, centred=c, top=4),
            lambda e, a=a, c=c: oracle.semantic_lens(e, a, c, 4),
        )
        for a, c in itertools.product(
            ("mean", "weighted", "median"), ("none", "images", "words", "both")
        )
    },
    "soft-wpmi": (SoftWPMI(), oracle.soft_wpmi),
    "soft-wpmi-fitted": (
        SoftWPMI(top=3, temperature=30.0, prior_weight=0.5),
        lambda e: oracle.soft_wpmi(e, 3, 30.0, 0.5),
    ),
    "wpmi": (WPMI(), oracle.wpmi),
    "weighted-dissect": (WeightedDissect(), oracle.weighted_dissect),
    "cos-cubed": (CosCubed(), oracle.cos_cubed),
    "cos-cubed-floor": (CosCubed(floor=0.5), lambda e: oracle.cos_cubed(e, 0.5)),
    "rank-reorder": (RankReorder(share=0.3), lambda e: oracle.rank_reorder(e, 0.3)),
    "invert": (Invert(share=0.1), lambda e: oracle.invert(e, 0.1)),
    "invert-annotations": (AnnotatedInvert(), oracle.annotated_invert),
    "csp-half": (ContrastiveProjection(gamma=0.5), lambda e: oracle.csp(e, 0.5)),
    "csp-whole": (ContrastiveProjection(gamma=1.0), lambda e: oracle.csp(e, 1.0)),
    "correlation": (Correlation(), oracle.correlation),
    "vote": (Vote(), oracle.vote),
    "vote-specific": (
        Vote(kappa=1.0, tau=0.7, share=0.2),
        lambda e: oracle.vote(e, 1.0, 0.7, 0.2),
    ),
    "vote-sample-only": (Vote(top=0), lambda e: oracle.vote(e, top=0)),
    "vote-few": (Vote(top=3), lambda e: oracle.vote(e, top=3)),
    "vote-examples": (ExampleVote(), oracle.vote_examples),
    "vote-examples-few": (
        ExampleVote(kappa=0.0, top=3),
        lambda e: oracle.vote_examples(e, kappa=0.0, top=3),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_the_formula(name, seed, monkeypatch):
    evidence = oracle.small(seed)
    method, formula = CASES[name]
    expected = formula(evidence)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(method.scores(evidence), expected, rtol=2e-4, atol=2e-5 * scale)
    monkeypatch.setattr("semlens.lenses.labelling.evidence._CELLS", 1)  # a component at a time
    np.testing.assert_allclose(method.scores(evidence), expected, rtol=2e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("crops", [False, True])
def test_each_image_votes_once_for_all_that_it_stands_for(crops):
    draw = np.random.default_rng(5)
    evidence = oracle.small()
    places = np.where(draw.random(evidence.examples.shape) < 0.5, -1, 0)
    places[places == 0] = draw.permutation(60)[: (places == 0).sum()]
    other = oracle.unit(draw.normal(size=(40, 8)) + 0.6).astype(np.float32)
    evidence = replace(
        evidence, in_reference=places, population=700, background=other if crops else None
    )
    for top in (None, 0, 3):
        expected = oracle.vote(evidence, top=10**9 if top is None else top)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            Vote(top=top).scores(evidence), expected, rtol=2e-4, atol=2e-5 * scale
        )


def test_a_sample_of_all_images_gives_the_same_vote_with_and_without_examples():
    evidence = replace(oracle.planted().evidence, population=1500)
    for top in (None, 0, 7):
        np.testing.assert_allclose(
            Vote(top=top).scores(evidence), Vote().scores(oracle.planted().evidence), atol=1e-5
        )


def test_the_background_is_what_examples_are_compared_with():
    evidence = oracle.small()
    other = oracle.unit(np.random.default_rng(9).normal(size=(40, 8)) - 0.5).astype(np.float32)
    moved = oracle.small(background=other)
    for method in (SemanticLens(centred="both"), WeightedDissect(), ExampleVote()):
        assert np.abs(method.scores(moved) - method.scores(evidence)).max() > 1e-3
    alone = oracle.small(reference=None, reference_readouts=None, annotations=None)
    images = oracle.small(
        reference=None, reference_readouts=None, annotations=None, background=alone.images
    )
    for method in (SemanticLens(centred="both"), WeightedDissect(), ExampleVote()):
        np.testing.assert_allclose(method.scores(alone), method.scores(images), atol=1e-6)


def test_a_linear_explanation_is_the_greedy_choice_among_the_largest_weights():
    world = oracle.planted(units=3, words=12, images=300)
    evidence, settings = world.evidence, LinearExplanation(width=4, longest=3)
    cosine = evidence.similarities.astype(float)
    x = (cosine - cosine.mean(0)) / cosine.std(0)
    rows = np.random.default_rng(0).permutation(len(x))
    test, train = rows[:45], rows[45:]
    scores = settings.scores(evidence)
    for k in range(3):
        a = evidence.reference_readouts[:, k].astype(float)
        y = (a - a.mean()) / a.std()
        net = ElasticNet(alpha=0.05, l1_ratio=0.99, fit_intercept=False, tol=1e-8)
        weight = net.fit(x[train], y[train]).coef_
        candidates, chosen, best = list(np.argsort(-weight, kind="stable")), [], 0.0
        while len(chosen) < 3:
            tried = {}
            for w in candidates[:4]:
                columns = [*chosen, w]
                fit = LinearRegression(fit_intercept=False).fit(x[train][:, columns], y[train])
                tried[w] = np.corrcoef(fit.predict(x[test][:, columns]), y[test])[0, 1], fit.coef_
            late = [w for w in tried if chosen and tried[w][0] - best < 0.02]
            candidates = [w for w in candidates if w not in late]
            good = [w for w in tried if w not in late and tried[w][0] > best]
            if not good:
                break
            w = max(good, key=lambda w: tried[w][0])
            best, coefficients = tried[w]
            chosen.append(w)
            candidates.remove(w)
        assert chosen
        np.testing.assert_allclose(scores[k, chosen], 1 + np.maximum(coefficients, -0.5), rtol=1e-4)
        others = np.setdiff1d(np.arange(12), chosen)
        expected = weight[others] / np.abs(weight).max() - 1
        np.testing.assert_allclose(scores[k, others], expected, atol=0.02)


def test_concept_probabilities_of_a_linear_explanation():
    evidence = oracle.planted(units=4, words=12, images=300).evidence
    plain = LinearExplanation().scores(evidence)
    flat = LinearExplanation(slope=1e-3).scores(evidence)  # almost linear
    np.testing.assert_allclose(flat, plain, atol=0.01)
    assert np.abs(LinearExplanation(slope=30.0, offset=-0.5).scores(evidence) - plain).max() > 0.05


def test_random_labels_are_uniform_and_repeat():
    evidence = oracle.planted(units=20, words=50).evidence
    scores = RandomLabels(seed=3).scores(evidence)
    np.testing.assert_array_equal(scores, RandomLabels(seed=3).scores(evidence))
    assert np.abs(scores - RandomLabels(seed=4).scores(evidence)).max() > 0.5
    assert abs(scores.mean() - 0.5) < 4 / np.sqrt(12 * scores.size)
    assert scores.min() >= 0 and scores.max() < 1


def separation_by_pairs(method, e: Evidence) -> float:
    """Share of pairs of components that labels of one half of the examples tell apart."""

    def half(start):
        vectors = e.images[e.examples[:, start::2]]
        return method.scores(Evidence.of_vectors(e.words, vectors, e.readouts[:, start::2]))

    found = []
    for chosen, tested in (
        (half(0), half(1)),
        (half(1), half(0)),
    ):
        for k, j in itertools.permutations(range(len(e)), 2):
            word = chosen[k].argmax()
            found.append(
                (tested[k, word] > tested[j, word]) + (tested[k, word] == tested[j, word]) / 2
            )
    return float(np.mean(found))


def test_separation_is_the_share_of_pairs_told_apart():
    evidence = oracle.planted(units=6, words=10, images=300, noise=0.5).evidence
    for temperature in (1.0, 30.0):
        method = SoftWPMI(temperature=temperature)
        assert separation(method, evidence) == pytest.approx(separation_by_pairs(method, evidence))


def test_components_without_a_meaning_are_not_separated():
    draw = np.random.default_rng(0)
    vectors = oracle.unit(draw.normal(size=(40, 20, 16)) + 1).astype(np.float32)
    words = oracle.unit(draw.normal(size=(30, 16))).astype(np.float32)
    noise = Evidence.of_vectors(words, vectors, np.ones((40, 20), np.float32))
    # 0.5 expected; the standard error of the mean over 40 components and two halves is 0.03
    assert abs(separation(SoftWPMI(), noise) - 0.5) < 0.1
    meaning = oracle.planted().evidence
    assert separation(SoftWPMI(), meaning) > 0.9


def test_the_fitted_temperature_labels_about_as_well_as_the_best():
    """With noisy images, the softmax of a high temperature sees one wrong word in each."""
    hits, fitted = {}, []
    for seed in range(4):
        world = oracle.planted(noise=0.6, gap=2.0, seed=seed)
        tried = (1.0, 10.0, 100.0, 1000.0, 10000.0)
        for value in tried:
            scores = SoftWPMI(temperature=value).scores(world.evidence)
            hits.setdefault(value, []).append((scores.argmax(1) == world.truth).mean())
        chosen = fit_temperature(SoftWPMI(), world.evidence, tried)
        fitted.append(hits[chosen.temperature][-1])
        assert chosen.model_dump() | {"temperature": 10.0} == SoftWPMI().model_dump()
    best = max(np.mean(value) for value in hits.values())
    worst = min(np.mean(value) for value in hits.values())
    assert np.mean(fitted) > best - 0.1
    assert np.mean(fitted) > worst + 0.2


def test_a_temperature_needs_components_to_compare():
    with pytest.raises(ConceptError, match="1 components have two"):
        separation(SoftWPMI(), oracle.planted(units=1).evidence)
    with pytest.raises(ConceptError, match="no temperature"):
        fit_temperature(SoftWPMI(), oracle.planted().evidence, ())
