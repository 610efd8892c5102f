"""The card over HTTP: what the analysis says, for the component that the path names."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, to_tensor, when_done
from fastapi.testclient import TestClient

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe import component_card as cards
from semlens.lenses.describe.neighbours import counterpart, neighbours
from semlens.lenses.labelling.label import label
from semlens.lenses.labelling.senses import split_component
from semlens.lenses.query_embedding import embed_concepts
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app

LAYERS = ["first", "second"]
API = "/api/v1"


def make(path, pictures, embedder, seed=0, relevance=True):
    subject = SubjectModel(LittleNet(seed), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    return sl.build(
        path, subject, images, embedder, LAYERS, examples=8, relevance=relevance, targets=targets
    )


@pytest.fixture(scope="module")
def databases(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("webcard")
    return [
        make(folder / "mine", pictures, WordEmbedder()),
        make(folder / "theirs", pictures, WordEmbedder(), seed=5, relevance=False),
        make(folder / "colours", pictures, ColourEmbedder(3), relevance=False),
    ]


@pytest.fixture(scope="module")
def fetch(databases):
    app = create_app(databases)

    def get(path, status=200, **params):
        answer = when_done(lambda: client.get(f"{API}/models/{path}", params=params))
        assert answer.status_code == status, answer.text
        return answer.json()

    with TestClient(app, base_url="http://localhost") as client:
        yield get


def card_path(db, row):
    return f"components/{db.component(row)}"


@pytest.mark.slow
def test_every_component_has_its_card(fetch, databases):
    db = databases[0]
    for row in range(db.manifest.rows):
        found = cards.card(db, row)
        got = fetch(f"0/{card_path(db, row)}")
        assert got["component"] == str(db.component(row))
        assert [one["path"] for one in got["examples"]] == [one.path for one in found.examples]
        assert [one["rank"] for one in got["examples"]] == list(range(len(found.examples)))
        for one, example in zip(got["examples"], db.examples_of(row), strict=True):
            assert one["activation"] == example.activation
            assert tuple(one["box"][side] for side in ("left", "top", "right", "bottom")) == (
                example.box.as_tuple()
            )
        assert {one["name"]: one["value"] for one in got["statistics"]}["maximum"] == float(
            db.components["maximum"][row]
        )


@pytest.mark.slow
def test_measures_and_relevances(fetch, databases):
    db = databases[0]
    frame = db.scores().to_pandas()
    for row in (0, 3, 6, 20):
        entry = db.layer(db.component(row).layer)
        mine = frame[frame["layer"] == entry.name]
        expected = cards.measures(mine, row - entry.first)
        got = fetch(f"0/{card_path(db, row)}/measures")
        assert [one["name"] for one in got] == ["clarity", "redundancy", "polysemanticity"]
        for one, other in zip(got, expected, strict=True):
            assert (one["value"], one["below"]) == (other.value, other.below)
            assert one["counts"] == list(other.counts)
            assert one["meaning"] == vars(other.meaning) and one["formula"]
        classes = fetch(f"0/{card_path(db, row)}/relevances", k=2)
        assert [vars(one) for one in cards.class_relevances(db, row, 2)] == classes


def test_labels_come_from_a_bundled_set(fetch, databases):
    db = databases[0]
    concepts = ConceptSet.load("paper-graph")
    labels = label(db, concepts, candidates=1)
    for row in (1, 8):
        got = fetch(f"0/{card_path(db, row)}/labels", concepts="paper-graph", k=4)
        at = int(np.flatnonzero(labels.rows == row)[0])
        assert got["suggestions"]["label"] == labels.label(at)
        assert (
            got["suggestions"]["candidates"][0]["name"]
            == concepts.concepts[labels.concept[at, 0]].name
        )
        assert got["suggestions"]["candidates"][0]["score"] == pytest.approx(
            float(labels.score[at, 0])
        )
        assert got["suggestions"]["margin"] == pytest.approx(float(labels.margin[at]), abs=1e-6)
        assert len(got["suggestions"]["candidates"]) == 4
        assert got["suggestions"]["threshold"] == pytest.approx(float(labels.thresholds[at]))
        assert (got["concepts"], got["notice"]) == ("paper-graph", None)
    default = fetch("0/components/first:1/labels")
    assert default["concepts"] == default["choices"][0] == "paper-vocabulary"


def test_kept_labels_come_first(fetch, databases):
    db = databases[0]
    labels = label(db, ConceptSet.of(["dog", "car"]), layers=["first"])
    file = labels.save_to_database("mine")
    try:
        got = fetch("0/components/first:2/labels")
        assert got["concepts"] == "saved:mine"
        assert got["suggestions"]["threshold"] == pytest.approx(float(labels.thresholds[2]))
        assert (
            got["suggestions"]["label"] == labels.label(2)
            and got["choices"][1] == "paper-vocabulary"
        )
        unknown = fetch("0/components/second:0/labels")
        assert unknown["suggestions"] is None and "'mine' do not cover" in unknown["notice"]
    finally:
        file.unlink()


def test_a_path_is_no_concept_set(fetch, tmp_path):
    file = tmp_path / "secret.toml"
    file.write_text('concepts = ["x"]')
    for name in (str(file), "../../etc/passwd", "saved:nothing"):
        got = fetch("0/components/first:0/labels", 400, concepts=name)
        assert got["kind"] == "ConceptError" and "closest" in got["expected"]


def test_senses_are_those_of_the_question_each_with_a_name(fetch, databases):
    db = databases[0]
    embedding = embed_concepts(db, ConceptSet.load("paper-vocabulary"))
    for row in (6, 11, 25):
        found = split_component(db, row, embedding)
        got = fetch(f"0/{card_path(db, row)}/senses")
        assert (got["p_value"], got["real"]) == (found.p_value, found.p_value <= 0.05)
        assert [one["ranks"] for one in got["senses"]] == [list(s.ranks) for s in found.senses]
        assert [one["label"] for one in got["senses"]] == [one.label for one in found.senses]
        table = db.senses(components=db.component(row)).to_pandas()
        assert table["label"].tolist() == [one.label for one in found.senses]
        assert table["p_value"].tolist() == [found.p_value] * 2
    silent = fetch("2/components/first:0/senses")
    assert {one["label"] for one in silent["senses"]} == {None}, "no words without texts"


def test_names_are_the_labels_that_the_question_gives(fetch, databases):
    db = databases[1]
    names = fetch("1/names")
    assert names["source"] == "paper-vocabulary" and not names["calibrated"]
    labels = db.label(candidates=2)
    for row in range(db.manifest.rows):
        at = np.flatnonzero(labels.rows == row)
        name = labels.label(int(at[0])) if len(at) else None
        assert (names["words"][names["label"][row]] if names["label"][row] >= 0 else None) == name
        if len(at) and name is not None:
            other = names["rival"][row]
            rival = f" / {names['words'][other]}" if other >= 0 else ""
            shown = labels.shown_label(int(at[0]))
            assert shown.rstrip("?").removeprefix("unsure: ") == f"{name}{rival}"
            sure = float(labels.confidence[at[0]])
            shown = names["confidence"][row]
            assert shown is None if np.isnan(sure) else shown == pytest.approx(sure, abs=6e-4)
    assert fetch("2/names") == {
        "source": None, "calibrated": False, "words": [],
        "label": [], "rival": [], "confidence": [],
    }  # fmt: skip


def test_neighbours_and_twins(fetch, databases):
    db, other = databases[:2]
    for row in (0, 5, 6, 25):
        found = neighbours(db, row, 3)
        got = fetch(f"0/{card_path(db, row)}/neighbours", k=3)
        assert [(one["component"], one["cosine"]) for one in got] == [
            (str(n.component), n.cosine) for n in found
        ]
        inside = fetch(f"0/{card_path(db, row)}/neighbours", k=3, among="second")
        assert {one["component"].split(":")[0] for one in inside} == {"second"}
        pair, expected = (
            fetch(f"0/{card_path(db, row)}/counterpart", other=1),
            counterpart(db, row, other),
        )
        assert pair["mutual"] == expected.mutual
        assert pair["nearest"]["component"] == str(expected.nearest.component)
        assert pair["nearest"]["cosine"] == expected.nearest.cosine


def test_what_is_not_there_says_what_is(fetch):
    layer = fetch("0/components/third:0", 404)
    assert layer["value"].startswith("Layer 'third' is not in the database")
    assert (layer["kind"], "first" in layer["expected"]) == ("LayerError", True)
    index = fetch("0/components/second:10/measures", 404)
    assert "Component 'second:10' is not in the database" in index["value"]
    assert "components 0 to 9, both signs" in index["expected"]
    nameless = fetch("0/components/nothing", 404)
    assert "'nothing' does not name a component" in nameless["value"]
    assert "'ninth'" in fetch("0/components/first:0/neighbours", 404, among="ninth")["value"]
    assert "Unknown model 7" in fetch("0/components/first:0/counterpart", 404, other=7)["value"]
    assert "Unknown model 9" in fetch("9/components/first:0", 404)["value"]


def test_what_cannot_be_answered_says_why(fetch):
    stale = fetch("0/components/first:0/counterpart", 409, other=2)
    assert stale["kind"] == "StaleError" and "python:colours" in stale["value"]
    same = fetch("0/components/first:0/counterpart", 400, other=0)
    assert "given twice" in same["value"]
    lacking = fetch("1/components/first:0/relevances", 400)
    assert lacking["kind"] == "RelevanceError" and "--relevance" in lacking["remedy"]


@pytest.mark.slow
def test_without_texts_there_are_kept_labels_or_a_notice(fetch, databases):
    got = fetch("2/components/first:0/labels")
    assert got["concepts"] is None and got["choices"] == [] and got["suggestions"] is None
    assert "cannot embed texts" in got["notice"]
    refused = fetch("2/components/first:0/labels", 400, concepts="paper-graph")
    assert "cannot embed texts" in refused["expected"]
    assert fetch("2/components/first:0/senses")["senses"], "the split needs no texts"


def test_a_component_without_examples_has_a_card_still(fetch, databases, monkeypatch):
    db = databases[1]
    silent = db.components.copy()
    silent.loc[3, "examples"] = 0
    monkeypatch.setitem(db.__dict__, "components", silent)
    assert fetch("1/components/first:3")["component"] == "first:3"
    for part in ("labels", "neighbours"):
        got = fetch(f"1/components/first:3/{part}", 404)
        assert "has no examples" in got["value"] and "concept vector" in got["expected"]
