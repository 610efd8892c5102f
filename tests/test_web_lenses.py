"""The routes of all lenses, against the same questions in Python."""

from __future__ import annotations

import json
import threading
import time

import pytest
from conftest import VEGETABLES, LittleNet, build_vegetables, to_tensor, when_done
from fastapi.testclient import TestClient

from semlens.lens import lens_of, load_lens, registered
from semlens.lenses.concepts import ConceptSet
from semlens.models.subject import SubjectModel
from semlens.settings import remote_settings
from semlens.web.app import create_app
from semlens.web.routes.lenses import table_of

KEYS = ("layer", "index", "sign")


@pytest.fixture(scope="module")
def model():
    return SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", VEGETABLES)


@pytest.fixture(scope="module")
def db(tmp_path_factory, model):
    return build_vegetables(tmp_path_factory.mktemp("lenses"), model)


@pytest.fixture
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def ask(client, name, settings=None, model=0, more=""):
    path = f"/api/v1/models/{model}/lenses/{name}{more}"
    return when_done(lambda: client.post(path, json=settings or {}))


def test_all_registered_lenses_are_listed_unless_only_this_machine_may_ask_them(client):
    listed = {one["name"]: one for one in client.get("/api/v1/lenses").json()["lenses"]}
    for name in registered():
        question = load_lens(name)
        declared = lens_of(question)
        expected = (
            not declared.local
            and declared.group is not None
            and remote_settings(question) is not None
        )
        assert (name in listed) == expected, name
        if expected:
            assert listed[name]["group"] == declared.group
            assert listed[name]["settings"]["additionalProperties"] is False
    assert {"report", "retrain", "prune", "netdissect"}.isdisjoint(listed)
    target = listed["suspects"]["settings"]["properties"]["target"]
    assert target["kind"] == "class"
    assert listed["compare"]["several"]


def test_a_lens_answers_what_python_answers(db, client):
    found = ask(client, "scores", {"layers": ["first"]}).json()
    expected = db.scores("first")
    section = expected.section()
    assert found["sentences"] == list(section.sentences)
    names = [column["name"] for column in found["table"]["columns"]]
    assert names == ["component", *(n for n in section.table if n not in KEYS)]
    assert [row[0] for row in found["table"]["rows"]] == [
        f"first:{number}" for number in range(len(section.table))
    ]
    assert found["table"]["total"] == len(section.table)
    kinds = {column["name"]: column["kind"] for column in found["table"]["columns"]}
    assert kinds["clarity"] == "number"
    place = [column["name"] for column in found["table"]["columns"]].index("clarity")
    for row, value in zip(found["table"]["rows"], section.table["clarity"], strict=True):
        assert row[place] == (None if value != value else pytest.approx(value))


def test_a_lens_that_runs_the_model(db, client):
    found = ask(client, "class_relevance", {"target": "ox", "top": 3}).json()
    assert found["table"]["total"] == len(db.class_relevance("ox", top=3).section().table) > 0


def test_names_of_concept_sets_and_texts_are_concepts(db, client):
    found = ask(client, "label", {"concepts": ["dog", "red car", "grass"], "layers": ["second"]})
    expected = db.label(["dog", "red car", "grass"], layers="second").section()
    assert found.json()["table"]["total"] == len(expected.table)


@pytest.mark.parametrize(
    ("name", "settings", "status", "part"),
    [
        ("nonsense", {}, 404, "There is no lens 'nonsense'"),
        ("retrain", {}, 403, "not offered here"),
        ("netdissect", {"masks": "/etc"}, 403, "not offered here"),
        ("scores", {"colour": 1}, 400, "There is no setting 'colour'"),
        ("suspects", {"top": 0}, 400, "top is '0'"),
        ("suspects", {"top": True}, 400, "top is 'True'"),
        ("suspects", {"top": "5"}, 400, "top is '5'"),
        ("suspects", {"target": "unicorn"}, 400, "unicorn"),
        ("suspects", {"vocabulary": "nothing.toml"}, 400, "nothing.toml"),
        ("unexpected", {}, 400, "target"),
        ("scores", {"layers": ["third"]}, 404, "third"),
    ],
)
def test_bad_requests_say_what_was_expected(client, name, settings, status, part):
    found = ask(client, name, settings)
    assert found.status_code == status, found.text
    error = found.json()
    assert part in error["value"]
    assert error["expected"] and error["remedy"]


def test_no_setting_reads_a_file_of_the_server(client, tmp_path):
    secret = tmp_path / "secret.toml"
    secret.write_text('concepts = ["password"]')
    for name, settings in {
        "label": {"concepts": str(secret)},
        "suspects": {"concepts": [str(secret)], "target": "ox"},
        "audit": {"concepts": [str(secret)], "target": "ox"},
        "sensitivity": {"artefacts": [f"paste:{tmp_path}"]},
        "contrast": {"metadata": str(secret), "column": "a"},
        "model_test": {"target": "ox", "weights": str(secret)},
    }.items():
        found = ask(client, name, settings)
        assert 400 <= found.status_code < 500, (name, found.text)
        assert "password" not in found.text


def test_files_of_a_result(db, client, tmp_path):
    expected = db.scores()
    table = ask(client, "scores", more="/file?suffix=.csv")
    assert table.headers["content-disposition"].endswith('-scores.csv"')
    assert table.text.splitlines()[0] == ",".join(expected.to_pandas())
    values = ask(client, "scores", more="/file?suffix=.json").json()
    expected.save(tmp_path / "scores.json")
    assert values == json.loads((tmp_path / "scores.json").read_text())
    refused = ask(client, "scores", more="/file?suffix=.exe")
    assert refused.status_code == 409
    assert "Expected one of" in refused.json()["expected"]


def test_lenses_about_several_models(db, client, tmp_path_factory, model):
    other = build_vegetables(tmp_path_factory.mktemp("other"), model)
    both = TestClient(create_app([db, other]), base_url="http://localhost")
    found = ask(both, "compare", {"concepts": None, "scores": False}, more="?with=1")
    assert found.status_code == 200, found.text
    refused = ask(both, "scores", more="?with=1")
    assert refused.status_code == 400
    assert "asked about 2 models" in refused.json()["value"]
    assert ask(both, "compare", more="?with=7").status_code == 404


def test_an_answer_follows_the_saved_audits(db, client):
    def answer():
        return ask(client, "audit", settings).json()["table"]["rows"]

    def expected():
        return table_of(db.audit(**settings).section().table).rows

    settings = {"target": "ox", "resamples": 0}
    before = answer()
    record = db.audits.add("ox", ConceptSet.of(valid=["grass"], spurious=["text"], name="mine"))
    try:
        after = answer()
        assert after == expected()
        assert after != before
    finally:
        db.audits.remove(record.id, record.revision)
    assert answer() == before == expected()


def test_a_running_lens_can_be_stopped(client):
    path, settings = "/api/v1/models/0/lenses/label_stability", {"draws": 100_000}
    running = client.post(path, json=settings)
    assert running.status_code == 202
    assert client.post(f"{path}/cancel", json=settings).status_code == 204
    end = time.monotonic() + 60
    while any(
        thread.name.startswith("job lens/label_stability") for thread in threading.enumerate()
    ):
        assert time.monotonic() < end, "the thread of a stopped job goes on"
        time.sleep(0.05)
