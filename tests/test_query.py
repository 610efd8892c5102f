"""Pages, scales, "more like this" and label search, against float64 and plain loops."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, assert_says, to_tensor
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, LayerError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.chosen_method import choose_method
from semlens.lenses.labelling.component_labels import label_tables
from semlens.lenses.labelling.labels import Labels
from semlens.lenses.query_embedding import SEARCH_TEMPLATES
from semlens.lenses.search.label_search import search_labels
from semlens.lenses.search.query import make_query
from semlens.lenses.search.search import alignments, plain_number, rank
from semlens.models.subject import SubjectModel

LAYERS = ["first", "second"]


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    module = LittleNet()
    module.first[0].weight.data[2] = 0  # one component without examples
    module.first[0].bias.data[2] = -1
    subject = SubjectModel(module, to_tensor, "32 bilinear", "python:little", list("abcd"))
    path = tmp_path_factory.mktemp("query") / "db"
    return sl.build(path, subject, ImageFolder(pictures), WordEmbedder(), LAYERS, examples=6)


def cos(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def embedded(words, text):
    prompts = [template.replace("{}", text) for template in SEARCH_TEMPLATES]
    return np.mean([words.embed_texts([p])[0].double().numpy() for p in prompts], axis=0)


def sure(confidence):
    return -1 if np.isnan(confidence) else confidence


def units(db, rows):
    theta = db.theta[rows].astype(np.float64)
    return theta / np.linalg.norm(theta, axis=1, keepdims=True)


def expected_scores(db, positive, null, negative=None):
    """Alignment of each living component with the mean of vectors, in float64."""
    scores = {}
    for row in np.flatnonzero(db.has_examples).tolist():
        theta = db.theta[row]
        scores[row] = cos(theta, np.mean(positive, 0)) - (cos(theta, null) if null is not None
                                                           else 0)  # fmt: skip
        if negative is not None:
            scores[row] -= cos(theta, np.mean(negative, 0)) - cos(theta, null)
    return scores


@pytest.mark.slow
def test_one_component_has_no_examples(db):
    assert np.flatnonzero(~db.has_examples).tolist() == [2]


@pytest.mark.slow
def test_pages_are_cut_from_one_ranking(db):
    every = db.search("dog", top=1000)
    assert len(every) == every.searched == db.has_examples.sum() == 25
    pages = [db.search("dog", top=4, offset=offset) for offset in range(0, 28, 4)]
    assert [hit for page in pages for hit in page.hits] == list(every.hits)
    assert [hit.rank for hit in pages[2].hits] == [9, 10, 11, 12]
    assert len(db.search("dog", top=0)) == len(db.search("dog", offset=25)) == 0
    layers = db.search("dog", layers=["second", "first"], top=1000)
    assert layers.hits == every.hits


def test_ties_are_in_row_order(db, monkeypatch):
    values = np.array([0.5, 0.1, 0.5, 0.5, 0.9, *np.linspace(-1, 0, 20)], np.float32)
    null = np.zeros(25, np.float32)
    db.search("dog")  # which measures the scale
    query = replace(make_query(db, ["dog"]), texts=None)  # thresholds are the same for all
    monkeypatch.setattr(
        type(db), "products", lambda self, probes, rows: np.stack([values, null], 1)
    )
    rows = np.flatnonzero(db.has_examples)
    for top in (1, 2, 3, 4, 5, 25):
        hits = rank(db, query, top=top)
        assert [hit.row for hit in hits.hits[:5]] == rows[[4, 0, 2, 3, 1]][:top].tolist()


def test_all_searches_by_words_share_a_scale(db, words):
    """A full bar is the best alignment with any of 68 words, in float64 and one by one."""
    some = [concept.name for concept in ConceptSet.load("paper-vocabulary").concepts[::10]]
    null = embedded(words, "")
    best = max(max(expected_scores(db, [embedded(words, one)], null).values()) for one in some)
    hits, others = db.search("dog"), db.search("grass", layers="first", without="sky")
    assert hits.scale == others.scale == plain_number(best) >= best
    assert hits.to_json()["scale"] == hits.scale
    row = hits[0].row
    assert db.search(like=db.component(row)).scale == 1
    again = sl.open(db.path, embedder=words).search("cat")
    assert again.scale == hits.scale


def test_a_scale_is_a_plain_number():
    values = {0.468: 0.5, 0.5: 0.5, 0.51: 0.6, 0.0021: 0.0025, 0.1: 0.1, 0.9: 1, 12.0: 15, 0.0: 1}
    assert {value: plain_number(value) for value in values} == values


@pytest.mark.slow
def test_a_text_that_the_embedder_does_not_know_is_told(tmp_path, subject, images):
    db = sl.build(tmp_path / "db", subject, images, "semlens/demo", ["first"], examples=3)
    with pytest.raises(ConceptError) as error:
        db.search("dog", "\N{GIRAFFE FACE}")
    assert_says(error.value, "semlens/demo", "nothing in '\N{GIRAFFE FACE}'", "image")
    assert len(db.search("dog \N{GIRAFFE FACE}", top=2)) == 2, "a part of it is known"


def test_alignments_of_all_components(db, words):
    scores = expected_scores(db, [embedded(words, "dog")], embedded(words, ""))
    found = alignments(db, make_query(db, "dog"))
    assert found.dtype == np.float32
    assert np.flatnonzero(np.isnan(found)).tolist() == [2]
    for row, value in scores.items():
        assert found[row] == pytest.approx(value, abs=2e-6)
    both = alignments(db, make_query(db, "dog", without="grass"))
    hits = db.search("dog", without=["grass"], top=1000)
    for hit in hits.hits:
        assert both[hit.row] == pytest.approx(hit.alignment, abs=1e-6)


def test_more_like_this_is_the_cosine_with_the_mean_of_units(db):
    query = make_query(db, like=["second:1", "second:6"], unlike="second:-4")
    found = rank(db, query, top=1000)
    vector, away = units(db, [7, 12]).mean(0), units(db, [20])[0]
    assert found.query == "second:1 + second:6 - second:-4"
    expected = {
        int(row): cos(db.theta[row], vector) - cos(db.theta[row], away)
        for row in np.flatnonzero(db.has_examples) if row not in (7, 12, 20)
    }  # fmt: skip
    assert [hit.row for hit in found.hits] == sorted(expected, key=lambda row: -expected[row])
    assert found.searched == 22
    for hit in found.hits:
        assert hit.alignment == pytest.approx(expected[hit.row], abs=2e-6)
        assert hit.cosine == pytest.approx(cos(db.theta[hit.row], vector), abs=2e-6)
    named = db.search(like=["second:1", sl.Component("second", 6)], unlike=["second:-4"], top=1000)
    assert named.hits == found.hits


def test_components_and_words_are_averaged(db, words):
    picture = Image.new("RGB", (30, 30), (200, 30, 30))
    image = words.embed_images([picture])[0].double().numpy()
    parts = [embedded(words, "dog"), image, *units(db, [3, 8])]
    scores = expected_scores(db, parts, embedded(words, ""))
    hits = db.search("dog", images=[picture], like=["first:3", "second:2"], top=1000)
    assert hits.query == "dog + image + first:3 + second:2"
    assert {hit.row for hit in hits.hits} == set(scores) - {3, 8}
    for hit in hits.hits:
        assert hit.alignment == pytest.approx(scores[hit.row], abs=2e-6)


def test_components_need_no_embedder(db):
    plain = sl.open(db.path)  # whose embedder came from Python and cannot be loaded
    assert plain.search(like=["second:1"]).hits == db.search(like=["second:1"]).hits


def test_wrong_components(db):
    with pytest.raises(ConceptError) as error:
        db.search(like=["first:2"])
    assert_says(error.value, "first:2", "no examples", "with examples", "another")
    with pytest.raises(LayerError, match="second:99"):
        make_query(db, like="second:99")
    with pytest.raises(ConceptError, match="empty"):
        db.search(unlike=["first:1"])


# -- labels ------------------------------------------------------------------------------------

NAMES = ["striped fur", "box", "ox", "Fur Coat", "tree"]


@pytest.fixture
def labelled(db, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(db.path, copy)
    db = sl.open(copy, embedder=WordEmbedder())
    rows = np.flatnonzero(db.has_examples)
    values = np.random.default_rng(2).normal(size=(len(rows), 1)).astype(np.float32)
    values[4] = values[9]  # of equal ones the first row comes first
    places = (np.arange(len(rows)) % len(NAMES))[:, None]
    none = np.full(len(rows), np.nan, np.float32)
    least, method = np.full_like(none, -9), choose_method([db], None, len(NAMES))
    names = [NAMES[place] for place in places[:, 0]]
    labels = Labels(
        ConceptSet.of(NAMES), -9.0, rows, places, values, none, least, none, none, names, none,
        db, method,
    )  # fmt: skip
    labels.save_to_database("mine")
    return db, labels.to_pandas(), labels.rows


def test_labels_are_found_by_the_beginnings_of_their_words(labelled):
    db, frame, rows = labelled

    def expected(*wanted):
        mine = [i for i in range(len(frame)) if frame["label"][i] in wanted]
        mine.sort(key=lambda i: (-sure(frame["confidence"][i]), -frame["score"][i], rows[i]))
        return [(int(rows[i]), frame["label"][i]) for i in mine]

    def found(*texts, **options):
        hits = search_labels(db, texts, top=1000, **options)
        assert hits.total == len(hits.hits)
        assert hits.searched == 25
        assert [hit.rank for hit in hits.hits] == list(range(1, hits.total + 1))
        for hit in hits.hits:
            place = np.flatnonzero(rows == hit.row)[0]
            assert hit.score == pytest.approx(frame["score"][place])
            assert hit.component == db.component(hit.row)
        return [(hit.row, hit.label) for hit in hits.hits]

    assert found("fur") == expected("striped fur", "Fur Coat")
    assert found("STRIPE fur") == expected("striped fur")
    assert found("ox") == expected("ox")
    assert found("box", "tree") == expected("box", "tree")
    assert found("fur", without=["coat"]) == expected("striped fur")
    assert found("nothing like it") == []


def test_tables_with_other_columns_are_left_out(labelled):
    db, frame, _ = labelled
    db.save_analysis("labels-old", frame.drop(columns="score"))
    assert [table.name for table in label_tables(db)] == ["mine"]
    with pytest.raises(ConceptError, match="no saved labels 'old'"):
        search_labels(db, ["fur"], name="old")


def test_pages_and_layers_of_a_label_search(labelled):
    db, frame, rows = labelled
    words = sorted(set(frame["label"]))
    every = search_labels(db, words, top=1000)
    pages = [search_labels(db, words, top=4, offset=offset) for offset in range(0, 28, 4)]
    assert [hit for page in pages for hit in page.hits] == list(every.hits)
    assert {page.total for page in pages} == {25}
    first = search_labels(db, words, layers=["first"], top=1000)
    assert [hit.row for hit in first.hits] == [hit.row for hit in every.hits if hit.row < 6]
    assert first.searched == 5


def test_a_label_search_without_labels_or_words_says_so(db, labelled):
    with pytest.raises(ConceptError) as error:
        search_labels(db, ["fur"])
    assert_says(error.value, "no saved labels", "reads no texts", f"semlens label {db.path}")
    for texts in ([], [" "], ["?!"]):
        with pytest.raises(ConceptError) as error:
            search_labels(labelled[0], texts)
        assert_says(error.value, "no text", "words", "Give at least one")
    with pytest.raises(ConceptError, match="mine"):
        search_labels(labelled[0], ["fur"], name="theirs")


def test_an_embedder_without_texts_still_finds_components(tmp_path, subject, images):
    db = sl.build(tmp_path / "db", subject, images, ColourEmbedder(), ["first"], examples=4)
    row = int(np.flatnonzero(db.has_examples)[0])
    hits = db.search(like=db.component(row))
    assert row not in {hit.row for hit in hits.hits}
    picture = Image.new("RGB", (30, 30), (10, 200, 10))
    vector = np.mean([db.embedder.embed_images([picture])[0].numpy(), units(db, [row])[0]], 0)
    for hit in db.search(images=[picture], like=[db.component(row)]).hits:
        assert hit.alignment == pytest.approx(cos(db.theta[hit.row], vector), abs=2e-6)


def test_a_query_that_prefers_no_component_is_refused(tmp_path, subject, images, words):
    db = sl.build(tmp_path / "db", subject, images, words, ["first"], examples=3)
    name = db.names()[0]
    for terms in (
        {"texts": "dog", "without": "dog"},
        {"texts": ["dog", "cat"], "without": ["cat", "dog"]},
        {"like": name, "unlike": name},
    ):
        with pytest.raises(ConceptError, match="are the same"):
            make_query(db, **terms)
    with pytest.raises(ConceptError, match="half a character"):
        make_query(db, "\ud800")
    assert np.linalg.norm(make_query(db, "dog", without="cat").direction) > 0.1
