"""Search and labels against float64 versions of Eqs. 3 and 4."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, to_tensor
from PIL import Image

import semlens as sl
from semlens.errors import ConceptError, DataError, EmbedderError, LayerError, StaleError
from semlens.lenses.concepts import Concept, ConceptSet, bundled_names
from semlens.lenses.labelling.component_labels import saved_labels
from semlens.lenses.labelling.confidence import as_shown
from semlens.lenses.query_embedding import LABEL_TEMPLATES, SEARCH_TEMPLATES, embed_texts

LAYERS = ["first", "second"]


@pytest.fixture(scope="module")
def base(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("search") / "db"
    net = sl.SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    sl.build(path, net, sl.ImageFolder(pictures), WordEmbedder(), LAYERS, examples=6)
    return path


@pytest.fixture
def db(base, tmp_path, words):
    return sl.open(shutil.copytree(base, tmp_path / "db"), embedder=words)


def cos(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def text_vector(words, text, templates):
    """Mean of the unit embeddings of a text's prompts, one at a time, in float64."""
    prompts = [template.replace("{}", text) for template in templates]
    return np.mean([words.embed_texts([p])[0].double().numpy() for p in prompts], axis=0)


def expected_alignment(db, words, positive, negative=(), templates=SEARCH_TEMPLATES):
    """One number per living component, by row."""
    null = text_vector(words, "", templates)

    def align(theta, vectors):
        return cos(theta, np.mean(vectors, axis=0)) - cos(theta, null)

    result = {}
    for row in np.flatnonzero(db.has_examples):
        theta = db.theta[row].astype(np.float64)
        value = align(theta, positive)
        if negative:
            value -= align(theta, negative)
        result[int(row)] = value
    return result


def check(hits, expected, top):
    best = sorted(expected, key=lambda row: (-expected[row], row))[:top]
    assert [hit.row for hit in hits.hits] == best
    assert [hit.rank for hit in hits.hits] == list(range(1, top + 1))
    for hit in hits.hits:
        assert hit.alignment == pytest.approx(expected[hit.row], abs=2e-6)


@pytest.mark.slow
def test_one_text(db, words):
    expected = expected_alignment(db, words, [text_vector(words, "dog", SEARCH_TEMPLATES)])
    check(db.search("dog", top=12), expected, 12)


def test_several_texts_and_images_are_averaged(db, words):
    red = Image.new("RGB", (40, 30), (220, 20, 20))
    vectors = [
        text_vector(words, "dog", SEARCH_TEMPLATES),
        text_vector(words, "green frog", SEARCH_TEMPLATES),
        words.embed_images([red])[0].double().numpy(),
    ]
    expected = expected_alignment(db, words, vectors)
    check(db.search("dog", "green frog", images=[red], top=9), expected, 9)


def test_negative_terms_subtract_their_alignment(db, words):
    expected = expected_alignment(
        db, words, [text_vector(words, "dog", SEARCH_TEMPLATES)],
        [text_vector(words, "grass", SEARCH_TEMPLATES)],
    )  # fmt: skip
    hits = db.search("dog", without=["grass"], top=9)
    check(hits, expected, 9)
    assert hits.query == "dog - grass"


def test_a_folder_is_one_term_and_marked_minus_plain_is_a_query(db, words, tmp_path):
    """A folder stands for the mean of its images, in float64 and one after the other."""
    means = {}
    for name, shade in (("marked", 200), ("plain", 30)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (20, 20), (shade, 40 * i, 10)).save(tmp_path / name / f"{i}.png")
        one = [words.embed_images([Image.open(p)])[0].double().numpy()
               for p in sorted((tmp_path / name).iterdir())]  # fmt: skip
        means[name] = np.mean(one, axis=0)
    dog = text_vector(words, "dog", SEARCH_TEMPLATES)
    expected = expected_alignment(db, words, [means["marked"], dog], [means["plain"]])
    hits = db.search(
        "dog", images=tmp_path / "marked", without_images=[str(tmp_path / "plain")], top=9
    )
    check(hits, expected, 9)
    assert hits.query == "dog + marked - plain"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        db.search(images=tmp_path / "empty")


def test_templates_are_not_mixed_up_between_batched_and_single_queries(words):
    texts = ["dog", "cat", "striped zebra", "x"]
    together = embed_texts(words, texts, SEARCH_TEMPLATES)
    for place, text in enumerate(texts):
        alone = embed_texts(words, [text], SEARCH_TEMPLATES)[0]
        np.testing.assert_allclose(together[place], alone, atol=1e-7)
        np.testing.assert_allclose(
            together[place], text_vector(words, text, SEARCH_TEMPLATES), atol=1e-6
        )


def test_layers_can_be_chosen_and_wrong_ones_are_named(db):
    hits = db.search("dog", layers=["first"], top=99)
    assert {hit.component.layer for hit in hits.hits} == {"first"}
    assert hits.searched == len(hits)
    with pytest.raises(LayerError, match="semlens build"):
        db.search("dog", layers=["frist"])


@pytest.mark.slow
def test_an_image_only_embedder_says_so_for_texts(tmp_path, subject, images, embedder):
    db = sl.build(tmp_path / "db", subject, images, embedder, LAYERS, examples=6)
    with pytest.raises(EmbedderError) as error:
        db.search("dog")
    assert "python:colours" in error.value.value
    assert "images only" in error.value.expected
    assert "Search by image" in error.value.remedy
    picture = Image.new("RGB", (30, 30), (10, 200, 10))
    vector = embedder.embed_images([picture])[0].numpy()
    hits = db.search(images=[picture], top=4)
    for hit in hits.hits:
        assert hit.alignment == pytest.approx(cos(db.theta[hit.row], vector), abs=2e-6)


def test_another_embedder_is_refused(db):
    with pytest.raises(StaleError, match="embedder"):
        sl.open(db.path, embedder=ColourEmbedder(seed=3))


@pytest.mark.parametrize("texts", [(), ("",), ("dog", "  ")])
def test_empty_probes(db, texts):
    with pytest.raises(ConceptError, match="empty"):
        db.search(*texts)


def test_wrong_templates_and_probe_images(db, tmp_path):
    with pytest.raises(ConceptError, match="has no {}"):
        db.search("dog", templates=["a photo"])
    with pytest.raises(ConceptError, match="nothing.png"):
        db.search(images=[tmp_path / "nothing.png"])


def test_hits_go_to_pandas_json_and_csv(db, tmp_path):
    hits = db.search("dog", top=3)
    frame = hits.to_pandas()
    assert list(frame["rank"]) == [1, 2, 3]
    assert json.loads(json.dumps(hits.to_json()))["hits"][0]["component"] == str(hits[0].component)
    hits.save(tmp_path / "hits.csv")
    assert len((tmp_path / "hits.csv").read_text().splitlines()) == 4
    assert "dog" in repr(hits)


def test_labels_are_the_best_concepts_above_the_threshold(db, words):
    names = ["dog", "green frog", "car", "tree"]
    concepts = ConceptSet.of(names)
    null = text_vector(words, "", LABEL_TEMPLATES)
    threshold = float(np.median(db.label(concepts, method="semantic-lens").score[:, 0]))
    labels = db.label(concepts, method="semantic-lens", threshold=threshold, candidates=2)
    assert len(labels) == db.has_examples.sum()
    found = {None: 0}
    for place, row in enumerate(labels.rows):
        theta = db.theta[row]
        values = [
            cos(theta, text_vector(words, n, LABEL_TEMPLATES)) - cos(theta, null) for n in names
        ]
        order = np.argsort(values)[::-1]
        assert labels.score[place, 0] == pytest.approx(values[order[0]], abs=2e-6)
        assert [names[i] for i in order[:2]] == [names[i] for i in labels.concept[place]]
        assert labels.margin[place] == pytest.approx(values[order[0]] - values[order[1]], abs=4e-6)
        expected = names[order[0]] if values[order[0]] > threshold else None
        if expected is None or labels.share[place] >= 0.5:
            assert labels.label(place) == expected
        else:
            assert labels.label(place).startswith("mixed")
        found[expected] = found.get(expected, 0) + 1
    assert found[None] > 0
    assert len(found) > 1


def test_the_margin_is_to_another_name(db):
    doubled = ConceptSet((Concept("dog", ("a",)), Concept("dog", ("b",)), Concept("car")))
    single = ConceptSet((Concept("dog"), Concept("car")))
    for method in ("semantic-lens", "vote-examples"):
        first, second = (db.label(words, method=method).margin for words in (doubled, single))
        np.testing.assert_allclose(first, second, atol=1e-6)
    assert np.isnan(db.label(ConceptSet.of(["dog"])).margin).all()


@pytest.mark.slow
def test_labels_are_saved_with_the_build_that_they_belong_to(db, subject, images, words):
    labels = db.label(ConceptSet.of(["dog", "car"]))
    labels.save_to_database("mine")
    assert db.load_analysis("labels-mine")["label"].equals(labels.to_pandas()["label"])
    sl.build(db.path, subject, images, words, ["head"], examples=6)
    assert sl.open(db.path, embedder=words).load_analysis("labels-mine") is None


def test_hits_show_the_labels_that_were_saved_last(db):
    def shown():
        return {hit.row: hit.label for hit in db.search("dog", top=100).hits}

    assert not any(shown().values())
    for words in (["dog", "car"], ["red", "blue"]):
        db.label(ConceptSet.of(words), threshold=-9.0).save_to_database("mine")
        saved = saved_labels(db)
        columns = zip(saved["label"], saved["confidence"], saved["rival"], strict=True)
        expected = [as_shown(*one) for one in columns]
        assert any(expected)
        assert shown() == {row: expected[row] for row in shown()}
    (db.path / "analysis" / "labels-mine.parquet").unlink()
    assert not any(shown().values())


def test_image_concepts(db, words, tmp_path):
    for name, colour in (("red", (230, 10, 10)), ("blue", (10, 10, 230))):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "set.toml").write_text(
        '[concepts]\nColours = [{name = "red", images = ["red.png"]}, '
        '{name = "blue", images = ["blue.png"]}]\n'
    )
    labels = db.label(tmp_path / "set.toml", method="semantic-lens", threshold=-9.0)
    red = words.embed_images([Image.new("RGB", (20, 20), (230, 10, 10))])[0].numpy()
    blue = words.embed_images([Image.new("RGB", (20, 20), (10, 10, 230))])[0].numpy()
    for place, row in enumerate(labels.rows):
        theta = db.theta[row]
        best = "red" if cos(theta, red) > cos(theta, blue) else "blue"
        assert labels.concepts.concepts[labels.concept[place, 0]].name == best
        assert labels.label(place) == best or labels.share[place] < 0.5


NESTED = {"Animals": {"Parts": ["fur", "horn"], "Kinds": ["dog"]}, "Colours": ["red"]}


def test_toml_json_and_csv_hold_the_same_set(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"concepts": NESTED, "templates": ["a {}"]}))
    (tmp_path / "a.toml").write_text(
        'templates = ["a {}"]\n[concepts]\nColours = ["red"]\n[concepts.Animals]\n'
        'Parts = ["fur", "horn"]\nKinds = ["dog"]\n'
    )
    (tmp_path / "a.csv").write_text(
        "concept,category,kind\nfur,Animals/Parts,\nhorn,Animals/Parts,concept\n"
        "dog,Animals/Kinds,\nred,Colours,\n"
    )
    sets = [ConceptSet.load(tmp_path / f"a.{suffix}") for suffix in ("json", "toml", "csv")]
    expected = {
        ("fur", "Animals/Parts"), ("horn", "Animals/Parts"), ("dog", "Animals/Kinds"),
        ("red", "Colours"),
    }  # fmt: skip
    for found in sets:
        assert {(c.name, c.category) for c in found.concepts} == expected
    assert sets[0].templates == sets[1].templates == ("a {}",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "concepts = [", "cannot be read"),
        ("a.toml", "other = 1", "has no concepts"),
        ("a.toml", "concepts = []", "is empty"),
        ("a.toml", "[concepts]\na = [1]", "holds 1"),
        ("a.toml", 'templates = ["x"]\nconcepts = ["dog"]', "with {} for"),
        ("a.json", "[", "cannot be read"),
        ("a.csv", "name\ndog\n", "columns name"),
        ("a.csv", "concept,kind\ndog,odd\n", "'odd'"),
    ],
)
def test_wrong_concept_sets(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConceptError) as error:
        ConceptSet.load(tmp_path / name)
    assert message in str(error.value)


def test_bundled_sets_load_and_a_wrong_name_gets_the_nearest():
    names = bundled_names()
    assert {"paper-vocabulary", "paper-ox", "paper-melanoma", "paper-graph"} <= set(names)
    assert sum(name.startswith("paper-imagenet/") for name in names) == 26
    for name in names:
        found = ConceptSet.load(name)
        assert len(found) > 5
        assert all(c.name == c.name.strip().lower() for c in found.concepts)
    vocabulary = ConceptSet.load("paper-vocabulary")
    assert len({c.path[0] for c in vocabulary.concepts}) == 9
    ox = ConceptSet.load("paper-ox")
    assert (len(ox.of_kind("valid")), len(ox.of_kind("spurious"))) == (16, 16)
    assert ox.templates == ("{}", "an image of {}")
    with pytest.raises(ConceptError, match="paper-vocabulary"):
        ConceptSet.load("paper-vocab")
