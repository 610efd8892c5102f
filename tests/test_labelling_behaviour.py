"""What every labelling method must do: invariances, planted labels, nulls, degenerate input."""

from __future__ import annotations

from dataclasses import replace

import labelling_oracles as oracle
import numpy as np
import pytest
from scipy.stats import chisquare

from semlens.lenses.labelling.clip_dissect import WPMI, SoftWPMI
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.registry import BUILT_IN
from semlens.lenses.labelling.semantic_lens import SemanticLens
from semlens.lenses.labelling.vote import ExampleVote, Vote

METHODS = [name for name in BUILT_IN if name != "random"]
RELATIVE = ["clip-dissect", "soft-wpmi", "wpmi"]


def close(one: np.ndarray, other: np.ndarray, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


def of_components(e: Evidence, rows) -> Evidence:
    assert e.reference_readouts is not None
    return replace(
        e, examples=e.examples[rows], readouts=e.readouts[rows], counts=e.counts[rows],
        reference_readouts=e.reference_readouts[:, rows],
        in_reference=None if e.in_reference is None else e.in_reference[rows],
    )  # fmt: skip


def of_words(e: Evidence, words) -> Evidence:
    assert e.annotations is not None
    return replace(e, words=e.words[words], annotations=e.annotations[:, words])


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_components_and_words_does_not_matter(name):
    evidence, method = oracle.small(), BUILT_IN[name]
    scores = method.scores(evidence)
    rows, words = np.array([3, 0, 4, 1, 2]), np.array([2, 6, 0, 1, 5, 3, 4])
    tolerance = 0.01 if name == "linear-explanation" else 1e-4  # an elastic net is iterated
    close(method.scores(of_components(evidence, rows)), scores[rows], tolerance)
    close(method.scores(of_words(evidence, words)), scores[:, words], tolerance)


@pytest.mark.parametrize("name", METHODS)
def test_the_scale_of_readouts_does_not_matter(name):
    evidence, method = oracle.small(), BUILT_IN[name]
    factor = np.array([1e-3, 0.5, 7, 3e4, 1], np.float32)
    scaled = replace(
        evidence, readouts=evidence.readouts * factor[:, None],
        reference_readouts=evidence.reference_readouts * factor,
    )  # fmt: skip
    close(method.scores(scaled), method.scores(evidence), 1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_component_is_scored_alone_unless_the_method_says_otherwise(name):
    evidence, method = oracle.small(), BUILT_IN[name]
    rows = np.array([1, 2])
    scores, alone = method.scores(evidence)[rows], method.scores(of_components(evidence, rows))
    assert BUILT_IN[name].relative == (name in RELATIVE)
    if name in RELATIVE:
        assert np.abs(scores - alone).max() > 1e-2
    else:
        close(alone, scores)


@pytest.mark.parametrize("method", [SoftWPMI(top=20, temperature=30.0), WPMI(prior_weight=1.0)])
def test_labels_of_mutual_information_depend_on_which_components_are_present(method):
    """A second component that fits the best word as well takes it away from the first."""
    world = oracle.planted(units=12, noise=0.3)
    label = method.scores(world.evidence).argmax(1)
    assert (label == world.truth).mean() > 0.9
    copies = np.r_[np.arange(12), np.zeros(60, int)]
    again = method.scores(of_components(world.evidence, copies))
    margin = [np.partition(s[0], -2)[-1] - np.partition(s[0], -2)[-2] for s in
              (method.scores(world.evidence), again)]  # fmt: skip
    assert margin[1] < margin[0]
    alone = method.scores(of_components(world.evidence, np.array([0])))
    assert np.ptp(alone) < 1e-3  # with prior weight 1, nothing is left of a single component


EXPECTED = {
    **dict.fromkeys(METHODS, 0.9),
    "clip-dissect": 0.7,  # its softmax gives some words almost no probability in any image
}


@pytest.mark.parametrize("name", METHODS)
def test_planted_labels_are_found(name):
    worlds = [oracle.planted(seed=seed) for seed in range(2)]
    hits = [(BUILT_IN[name].scores(w.evidence).argmax(1) == w.truth).mean() for w in worlds]
    assert np.mean(hits) >= EXPECTED[name]


def test_votes_hear_a_component_that_is_on_or_off():
    """More than the share of the sample have the largest readout."""
    world = oracle.planted(units=8, words=20, images=300)
    evidence, truth = world.evidence, world.truth
    shown = evidence.annotations[:, truth].astype(np.float32)
    assert (shown.mean(0) > 0.005).all()
    binary = Evidence.of_reference(
        evidence.words, evidence.reference, shown, 20, annotations=evidence.annotations
    )
    scores = Vote(share=0.005).scores(binary)
    close(scores, oracle.vote(binary, share=0.005))
    assert (scores.argmax(1) == truth).mean() >= 0.9


@pytest.mark.parametrize("name", [name for name in METHODS if name != "invert-annotations"])
def test_a_word_that_is_given_twice_is_one_word(name):
    evidence, method = replace(oracle.small(), annotations=None), BUILT_IN[name]
    scores, words = method.scores(evidence), np.array([0, 1, 2, 2, 3, 4, 5, 6, 2])
    tolerance = 0.01 if name == "linear-explanation" else 1e-4
    close(
        method.scores(replace(evidence, words=evidence.words[words])), scores[:, words], tolerance
    )


def test_random_labels_are_right_by_chance():
    worlds = [oracle.planted(units=60, words=60, images=300, seed=seed) for seed in range(20)]
    hits = [
        BUILT_IN["random"].model_copy(update={"seed": seed}).scores(w.evidence).argmax(1) == w.truth
        for seed, w in enumerate(worlds)
    ]
    # 1,200 labels, each right with a probability of 1 in 60: 20 expected, standard deviation 4.4
    assert 6 <= np.sum(hits) <= 36


def hits_behind_a_gap(name: str) -> float:
    """Share of right labels where all images are far from all texts."""
    worlds = [oracle.planted(noise=0.5, gap=3.0, seed=seed) for seed in range(3)]
    found = [BUILT_IN[name].scores(w.evidence).argmax(1) == w.truth for w in worlds]
    return float(np.mean(found))


CENTRED = ["semantic-lens-centred-images", "semantic-lens-centred", "clip-dissect-weighted"]
VOTES = ["vote", "vote-examples"]


@pytest.mark.parametrize("name", [*CENTRED, *VOTES, "correlation", "cos-cubed"])
def test_centred_methods_bear_a_modality_gap(name):
    assert hits_behind_a_gap(name) > 0.9


@pytest.mark.parametrize("name", ["semantic-lens", "semantic-lens-centred-words", "csp", "invert"])
def test_other_methods_do_not(name):
    assert hits_behind_a_gap(name) < 0.6


def null(units: int = 600, words: int = 20, images: int = 400, dim: int = 12, seed: int = 0):
    """Readouts independent of the images, which lie in a cone: some words are hubs."""
    draw = np.random.default_rng(seed)
    cone = oracle.unit(draw.normal(size=dim))
    vectors = oracle.unit(0.7 * draw.normal(size=(images, dim)) + 2 * cone).astype(np.float32)
    text = oracle.unit(draw.normal(size=(words, dim))).astype(np.float32)
    readouts = draw.random((images, units)).astype(np.float32)
    return Evidence.of_reference(text, vectors, readouts, 20)


def test_hubs_label_meaningless_components_before_centring_and_not_after():
    evidence = null()

    def largest_share(method):
        counts = np.bincount(method.scores(evidence).argmax(1), minlength=20)
        return counts.max() / counts.sum()

    # one word in 20 would have 5 % of the labels if all were alike
    assert largest_share(SemanticLens()) > 0.6
    assert largest_share(SemanticLens(centred="images")) < 0.25
    assert largest_share(SemanticLens(centred="both")) < 0.25
    assert largest_share(Vote()) < 0.25
    assert largest_share(ExampleVote()) < 0.25


def test_labels_of_meaningless_components_are_uniform_where_words_are_alike():
    """Words on all sides of images on all sides: no word is more likely than another."""
    draw = np.random.default_rng(0)
    dim, components = 4, 1500
    words = np.r_[np.eye(dim), -np.eye(dim)].astype(np.float32)
    images = oracle.unit(draw.normal(size=(2000, dim)))
    images = np.r_[images, -images].astype(np.float32)
    rows = np.argsort(draw.random((components, len(images))), axis=1)[:, :10]
    evidence = Evidence(
        words, images, rows, np.ones((components, 10), np.float32), np.full(components, 10),
        background=images,
    )  # fmt: skip
    for name in (
        "semantic-lens",
        "semantic-lens-centred",
        "clip-dissect-weighted",
        "vote-examples",
    ):
        counts = np.bincount(BUILT_IN[name].scores(evidence).argmax(1), minlength=len(words))
        assert chisquare(counts).pvalue > 1e-4, (name, counts)


ALONE = [name for name in METHODS if name not in (*RELATIVE, "linear-explanation")]


@pytest.mark.parametrize("name", ALONE)
def test_a_threshold_from_meaningless_components_holds_for_others_and_finds_planted_ones(name):
    world, method = oracle.planted(top=10), BUILT_IN[name]
    best = [method.scores(meaningless(world.evidence, 400, seed)).max(1) for seed in (0, 1)]
    threshold = np.quantile(best[0], 0.95)
    # 20 of 400 expected; the standard deviation, with that of the threshold, is about 6
    assert 2 <= (best[1] > threshold).sum() <= 40
    if name != "invert":  # its 30 images of a word are too few here
        assert (method.scores(world.evidence).max(1) > threshold).mean() > 0.9


def test_meaningless_components_have_the_readouts_of_real_ones_elsewhere():
    e = oracle.small()
    random = meaningless(e, 50, seed=3)
    for k in range(50):
        (row,) = [
            i for i in range(len(e))
            if np.array_equal(e.readouts[i], random.readouts[k]) and e.counts[i] == random.counts[k]
        ]  # fmt: skip
        one, other = e.reference_readouts[:, row], random.reference_readouts[:, k]
        assert not np.array_equal(one, other)
        np.testing.assert_array_equal(np.sort(one), np.sort(other))
    np.testing.assert_array_equal(random.images, e.reference)
    np.testing.assert_array_equal(random.centre, e.centre)


DEGENERATE = {
    "constant readouts": lambda e: replace(
        e, readouts=np.ones_like(e.readouts), reference_readouts=np.ones_like(e.reference_readouts)
    ),
    "silent components": lambda e: replace(
        e, readouts=0 * e.readouts, reference_readouts=0 * e.reference_readouts
    ),
    "negative readouts": lambda e: replace(
        e, readouts=e.readouts - 100, reference_readouts=e.reference_readouts - 100
    ),
    "one word": lambda e: of_words(e, np.array([2])),
    "equal words": lambda e: of_words(e, np.array([2, 2, 2])),
    "one component": lambda e: of_components(e, np.array([2])),
    "one example": lambda e: replace(
        e, examples=e.examples[:, :1].copy(), readouts=e.readouts[:, :1].copy(),
        counts=np.ones_like(e.counts),
    ),
    "equal components": lambda e: of_components(e, np.array([2, 2, 2])),
    "equal images": lambda e: replace(
        e, images=np.repeat(e.images[:1], len(e.images), 0),
        reference=np.repeat(e.reference[:1], len(e.reference), 0),
    ),
    "a word of no image": lambda e: replace(e, annotations=np.zeros_like(e.annotations)),
    "a word of every image": lambda e: replace(e, annotations=np.ones_like(e.annotations)),
    "few images": lambda e: replace(
        e, reference=e.reference[:3], reference_readouts=e.reference_readouts[:3],
        annotations=e.annotations[:3],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", BUILT_IN)
def test_degenerate_input_has_finite_scores(name, case):
    evidence = DEGENERATE[case](oracle.small())
    scores = BUILT_IN[name].scores(evidence)
    assert scores.shape == evidence.shape and scores.dtype == np.float32
    if case in ("constant readouts", "silent components") and name in (
        "cos-cubed", "correlation", "vote", "rank-reorder", "linear-explanation"
    ):  # fmt: skip
        assert np.ptp(scores, axis=1).max() == 0  # nothing sets any word apart
    if case == "equal words" and name not in ("random", "linear-explanation"):
        assert np.ptp(scores, axis=1).max() < 1e-5
    if case == "equal components" and name != "random":
        close(scores, scores[:1].repeat(3, 0))
