"""Mixed labels: examples that show a word, against plain loops and planted concepts."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor
from labelling_oracles import small, unit

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.component_labels import component_names, saved_labels
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.mixed import LEAST_CROPS, PART, shown_words
from semlens.lenses.labelling.ranking import PARTS
from semlens.lenses.labelling.vote import ExampleVote
from semlens.models.subject import SubjectModel

DIM, WORDS, CROPS, EXAMPLES = 48, 60, 1500, 30
NAMES = [f"word {index}" for index in range(WORDS)]


def world(shares, seed=0):
    """Crops of which shares show the first words: their vectors, the words, and what each shows."""
    draw = np.random.default_rng(seed)
    text = unit(draw.normal(size=(WORDS, DIM)) + 0.5 * draw.normal(size=DIM))
    shown = np.full(CROPS, -1)
    places = np.split(draw.permutation(CROPS), np.cumsum([round(CROPS * s) for s in shares]))
    for word, some in enumerate(places[:-1]):
        shown[some] = word
    noise = draw.normal(size=(CROPS, DIM)) / math.sqrt(DIM)
    # crops of no word of the list show something, too
    other = unit(draw.normal(size=(CROPS, DIM)))
    content = np.where(shown[:, None] >= 0, text[shown], other)
    return unit(content + 0.7 * noise + draw.normal(size=DIM) / 4), text, shown


def component(draw, shown, parts):
    """Crops of which so many show each word."""
    return np.concatenate(
        [draw.choice(np.flatnonzero(shown == word), count) for word, count in parts.items()]
    )


def evidence_of(crops, text, examples):
    return Evidence(
        text.astype(np.float32), crops.astype(np.float32), np.stack(examples),
        np.ones((len(examples), EXAMPLES), np.float32), np.full(len(examples), EXAMPLES),
        null=unit(np.ones(DIM)).astype(np.float32), background=crops.astype(np.float32),
    )  # fmt: skip


def best_words(evidence):
    return ExampleVote().scores(evidence).argmax(1)


def plain_least(evidence, word):
    """The largest cosine of a crop without the word, in float64, and the cosine of any crop."""
    crops = evidence.images_to_compare.astype(np.float64)
    centre = crops.mean(0)
    texts = np.vstack([evidence.words, evidence.null]).astype(np.float64)
    direction = unit(evidence.words[word] - texts.mean(0))

    def cosine(vector):
        return float(unit(vector.astype(np.float64) - centre) @ direction)

    first, second = np.quantile([cosine(crop) for crop in crops], [0.05, 0.25])
    z05, z25 = NormalDist().inv_cdf(0.05), NormalDist().inv_cdf(0.25)
    deviation = (second - first) / (z25 - z05)
    return second - z25 * deviation - z05 * deviation, cosine


def test_an_example_shows_a_word_above_what_crops_without_it_reach():
    evidence = small(n=6, q=9, m=8)
    words = np.array([0, 3, 8, 2, 2, 5])
    share, _ = shown_words(evidence, words, [str(i) for i in range(9)])
    for k, word in enumerate(words):
        least, cosine = plain_least(evidence, word)
        vectors = evidence.images[evidence.examples[k, : evidence.counts[k]]]
        values = [cosine(vector) for vector in vectors]
        assert min(abs(value - least) for value in values) > 1e-5, "no tie of rounding"
        assert share[k] == pytest.approx(np.mean([value > least for value in values]))


@pytest.mark.parametrize("common", [0.05, 0.5], ids=["rare", "half of the data"])
def test_a_planted_concept_is_not_mixed_however_common_it_is(common):
    crops, text, shown = world([common, 0.05])
    draw = np.random.default_rng(1)
    evidence = evidence_of(crops, text, [component(draw, shown, {0: EXAMPLES})] * 40)
    words = best_words(evidence)
    share, parts = shown_words(evidence, words, NAMES)
    assert words.tolist() == [0] * 40
    assert (share >= 0.5).all() and (parts == -1).all()
    # a quantile of all crops would call all of them mixed where the concept is half of the data
    near = crops @ text[0]
    above = (near > np.quantile(near, 0.95))[evidence.examples[0]].mean()
    assert common < 0.1 or above < 0.5


def test_planted_mixtures_are_mixed_and_named_by_what_they_show():
    crops, text, shown = world([0.06] * 12)
    draw = np.random.default_rng(2)
    planted = []
    for _ in range(60):
        words = draw.choice(12, 3, replace=False)
        planted.append(dict(zip(words.tolist(), (11, 10, 9), strict=True)))
    evidence = evidence_of(crops, text, [component(draw, shown, parts) for parts in planted])
    share, parts = shown_words(evidence, best_words(evidence), NAMES)
    assert (share < 0.5).mean() > 0.7
    found = [set(row[row >= 0].tolist()) for row in parts[share < 0.5]]
    true = [set(parts) for parts, few in zip(planted, share < 0.5, strict=True) if few]
    assert np.mean([len(a & b) / PARTS for a, b in zip(found, true, strict=True)]) > 0.9


def test_a_label_of_random_examples_is_mixed():
    crops, text, shown = world([0.06] * 12)
    evidence = evidence_of(crops, text, [np.zeros(EXAMPLES, np.int64)])
    labeller = ExampleVote()
    least = np.quantile(labeller.scores(meaningless(evidence, 1024, 0)).max(1), 0.95)
    random = meaningless(evidence, 2000, 1)
    scores = labeller.scores(random)
    share, _ = shown_words(random, scores.argmax(1), NAMES)
    labelled = scores.max(1) > least
    assert 0.03 < labelled.mean() < 0.08
    assert (labelled & (share >= 0.5)).mean() < 0.005


def test_parts_are_chosen_one_after_the_other():
    evidence = small(n=8, q=9, m=8, dim=6)
    names = [str(i) for i in range(8)] + ["0"]  # one name twice: the first of them is taken
    words = np.arange(8)
    share, parts = shown_words(evidence, words, names)
    votes = ExampleVote()
    for k in np.flatnonzero(share < 0.5):
        rows = evidence.examples[k, : evidence.counts[k]]
        shows = np.zeros((len(rows), 9), bool)
        for word in range(8):
            least, cosine = plain_least(evidence, word)
            shows[:, word] = [cosine(evidence.images[row]) > least for row in rows]
        each = votes.scores(
            replace(
                evidence, examples=rows[:, None], readouts=np.ones((len(rows), 1), np.float32),
                counts=np.ones(len(rows), np.int64), reference_readouts=None, reference=None,
                annotations=None, background=evidence.images_to_compare,
            )
        )  # fmt: skip
        left, expected = list(range(len(rows))), []
        while left and len(expected) < PARTS:
            enough = [
                w for w in range(9) if shows[left, w].sum() >= max(1, math.ceil(PART * len(rows)))
            ]
            if not enough:
                break
            word = max(enough, key=lambda w: each[left, w].mean())
            expected.append(word)
            left = [i for i in left if not shows[i, word]]
        expected.sort(key=lambda w: -shows[:, w].sum())
        assert parts[k][parts[k] >= 0].tolist() == expected


def test_few_crops_say_nothing():
    evidence = small(n=3, s=LEAST_CROPS - 1)
    share, parts = shown_words(evidence, np.zeros(3, np.int64), [str(i) for i in range(7)])
    assert np.isnan(share).all() and (parts == -1).all()
    assert not np.isnan(
        shown_words(small(n=3, s=LEAST_CROPS), np.zeros(3, int), NAMES[:7])[0]
    ).any()


@pytest.fixture(scope="module")
def built(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("mixed") / "db"
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    return sl.build(
        path, model, ImageFolder(pictures), WordEmbedder(), ["first", "second"], examples=6
    )


@pytest.mark.parametrize("method", ["vote-examples", "semantic-lens", "clip-dissect"])
def test_a_mixed_label_is_the_same_everywhere(built, tmp_path, method):
    shutil.copytree(built.path, tmp_path / "db")
    db = sl.open(tmp_path / "db", embedder=WordEmbedder())
    words = ConceptSet.of(["dog", "cat", "red", "blue", "grass", "text", "sky", "wheel"])
    labels = db.label(words, method=method, threshold=-9.0)
    frame = labels.to_pandas()
    mixed = frame["label"].str.startswith("mixed")
    assert 0 < mixed.sum() < len(frame)
    assert (mixed == (frame["shown"] < 0.5)).all()
    assert (frame["label"][~mixed] == [c[0] for c in frame["candidates"][~mixed]]).all()
    assert frame["confidence"][mixed].isna().all() and frame["category"][mixed].isna().all()
    assert {w for text in frame["label"][mixed] for w in text[7:].split(", ") if w} <= {
        concept.name for concept in words.concepts
    }
    assert [row["label"] for row in labels.to_json()["labels"]] == frame["label"].tolist()
    labels.save_to_database("mine")
    saved = saved_labels(db)
    assert saved["label"][labels.rows].tolist() == frame["label"].tolist()
    assert not saved["rival"][labels.rows][mixed.to_numpy()].notna().any()
    names = component_names(db)
    shown = names.shown_labels(labels.rows.tolist())
    assert shown == [labels.shown_label(i) for i in range(len(labels))]
    first = frame["component"][mixed.idxmax()]
    assert db.card(first).to_json()["label"] == frame["label"][mixed.idxmax()]
    assert json.loads(json.dumps(db.card(first).to_json()))["label"].startswith("mixed")
    found = db.search("red", top=db.manifest.rows)
    hits = {str(hit.component): hit.label for hit in found.hits}
    assert hits[first] == shown[mixed.idxmax()]
