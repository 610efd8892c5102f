"""Stability of labels under resampled images, and agreement between databases."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import LayerError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.registry import make_labeller
from semlens.lenses.labelling.stability import resampled, stability
from semlens.lenses.result import plain
from semlens.models.subject import SubjectModel

WORDS, DIM, IMAGES = 30, 32, 900


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def planted():
    """Ten components of a word each, and twenty that fire at random."""
    rng = np.random.default_rng(0)
    words = unit(rng.normal(size=(WORDS, DIM)))
    content = rng.integers(0, WORDS, IMAGES)
    images = unit(words[content] + 0.25 * rng.normal(size=(IMAGES, DIM)))
    readouts = rng.random((IMAGES, 30)).astype(np.float32)
    readouts[:, :10] += 2 * (content[:, None] == np.arange(10))
    return Evidence.of_reference(words, images, readouts, 20, population=IMAGES)


@pytest.mark.parametrize("method", ["vote", "vote-examples", "semantic-lens", "clip-dissect"])
def test_labels_of_content_are_stable_and_those_of_noise_are_not(planted, method):
    found = stability(planted, make_labeller(method), draws=10)
    assert found.dtype == np.float32 and found.shape == (30,)
    assert found[:10].mean() > 0.9
    assert found[10:].mean() < 0.6


def test_a_method_that_says_nothing_of_the_images_is_always_the_same(planted):
    class Constant(type(make_labeller("random"))):
        def _scores(self, evidence):
            return np.tile(np.arange(evidence.shape[1], dtype=np.float32), (len(evidence), 1))

    assert (stability(planted, Constant(), draws=3) == 1).all()


def test_copies_of_an_image_are_linked_and_counted_once(planted):
    """Against a plain count: copies of each image among examples and in the sample."""
    rng = np.random.default_rng(1)
    totals = []
    for _ in range(20):
        drawn = resampled(planted, rng)  # the evidence checks itself
        used = drawn.used()
        totals.append(len(drawn.reference))
        for k in range(0, len(drawn), 7):
            places = drawn.in_reference[k, used[k]]
            assert (places >= 0).all() and len(set(places.tolist())) == len(places)
            vectors = drawn.images[drawn.examples[k, used[k]]]
            np.testing.assert_array_equal(vectors, drawn.reference[places])
            np.testing.assert_array_equal(
                drawn.readouts[k, used[k]], drawn.reference_readouts[places, k]
            )
            if drawn.counts[k] == planted.examples.shape[1]:
                # they are the strongest images of the sample
                least = drawn.readouts[k, used[k]].min()
                strongest = np.sort(drawn.reference_readouts[:, k])[::-1][: used[k].sum()]
                assert least == strongest[-1]
        assert drawn.background is None and drawn.population == IMAGES
    assert set(totals) == {IMAGES}


def test_the_background_is_the_sample_where_it_was(planted):
    rng = np.random.default_rng(2)
    whole = resampled(replace(planted, background=planted.reference), rng)
    assert whole.background is whole.reference
    crops = planted.images[:50].copy()
    assert resampled(replace(planted, background=crops), rng).background is crops
    alone = replace(
        planted, reference=None, reference_readouts=None, in_reference=None, population=None
    )
    assert resampled(alone, rng).reference is None


def test_a_component_keeps_an_example_and_words_of_a_name_are_one(planted):
    few = replace(planted, counts=np.ones(30, int))
    for seed in range(5):
        drawn = resampled(few, np.random.default_rng(seed))
        assert (drawn.counts >= 1).all()
    names = ["same"] * WORDS
    assert (stability(planted, make_labeller("vote"), names=names, draws=2) == 1).all()
    assert np.isnan(stability(planted, make_labeller("vote"), draws=0)).all()


@pytest.mark.slow
def test_labels_of_databases_are_compared_by_component(pictures, tmp_path):
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    other_pictures = write_pictures(tmp_path / "other", 30, seed=7)

    def build(name, folder, layers):
        return sl.build(
            tmp_path / name, model, ImageFolder(folder), WordEmbedder(), layers, examples=4
        )

    db = build("db", pictures, ["first", "second"])
    other, wrong = build("o", other_pictures, ["first"]), build("w", other_pictures, ["head"])
    words = ConceptSet.of(["dog", "cat", "red", "blue", "grass", "text"])
    found = db.label_stability(other, concepts=words, draws=4)
    frame = found.frame.set_index("component")
    labels, elsewhere = (
        d.label(words, method="vote-examples").to_pandas().set_index("component")["label"]
        for d in (db, other)
    )
    assert frame["label"].equals(labels)
    shared = [name for name in frame.index if name in elsewhere.index]
    assert 0 < len(shared) < len(frame)
    assert frame.loc[shared, "elsewhere"].equals(elsewhere.loc[shared])
    assert frame.drop(shared)["elsewhere"].isna().all()
    assert set((4 * frame["stability"]).tolist()) <= {0, 1, 2, 3, 4}
    both = [(a, b) for a, b in zip(labels[shared], elsewhere[shared], strict=True)]
    both = [pair for pair in both if all(isinstance(name, str) for name in pair)]
    expected = np.mean([a == b for a, b in both]) if both else np.nan
    np.testing.assert_equal(list(found.agreement.values()), [expected])
    assert json.loads(json.dumps(plain(found.to_json())))["draws"] == 4
    with pytest.raises(LayerError) as error:
        db.label_stability(wrong, concepts=words, draws=0)
    assert_says(error.value, "none of the", "first:0", "same model")
