"""Audits over HTTP: saved, edited by two, computed, reported, and taken away as files."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, to_tensor, when_done, write_pictures
from fastapi.testclient import TestClient

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.lenses.audit.audit_records import AuditSettings
from semlens.lenses.audit.relevance_shares import ALL
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app

VALID, SPURIOUS = ["dog", "grey wolf"], ["tree", "sea", "stone"]


def build(path, pictures, embedder, **more):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little",
                           ["vegetable", "ox", "zebra", "clock"])  # fmt: skip
    images = ImageFolder(pictures)
    targets = [["vegetable", "ox", "clock"][i % 3] for i in range(len(images))]
    settings = {"relevance": True, "targets": targets, **more}
    return sl.build(path, subject, images, embedder, ["first", "second"], examples=4,
                    crop="activation", **settings)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits")
    pictures = write_pictures(folder / "images", 24)
    return build(folder / "db", pictures, WordEmbedder())


@pytest.fixture
def db(built):
    folder = built.path / "analysis" / "audits"
    for file in folder.glob("*") if folder.is_dir() else ():
        file.unlink()
    return sl.open(built.path, embedder=WordEmbedder())


@pytest.fixture
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path, method="GET", body=None):
    """Ask until the work is done, as the page does."""
    return when_done(lambda: client.request(method, f"/api/v1/models/0/{path}", json=body))


def terms(texts):
    return [{"text": text} for text in texts]


def save(client, **more):
    body = {"target": "ox", "valid": terms(VALID), "spurious": terms(SPURIOUS), **more}
    answer = fetch(client, "audits", "POST", body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def plain_concepts(valid=VALID, spurious=SPURIOUS):
    made = [Concept(one, (), "valid") for one in valid]
    return ConceptSet((*made, *(Concept(one, (), "spurious") for one in spurious)), "plain")


@pytest.mark.slow
def test_an_audit_is_saved_listed_and_read_back(client, db):
    made = save(client, settings={"minimum": 0.02, "threshold": [0.1, None], "layers": ["second"]})
    assert (made["id"], made["revision"], made["target"], made["name"]) == (1, 1, 1, "ox")
    assert [one["text"] for one in made["spurious"]] == SPURIOUS
    assert made["settings"] == {
        "layers": ["second"], "minimum": 0.02, "level": 0.05, "threshold": [0.1, None],
        "seed": 0,
    }  # fmt: skip
    assert (made["persistent"], made["stale"]) == (True, False)
    assert fetch(client, "audits/1").json() == made
    listed = fetch(client, "audits").json()
    assert [one["name"] for one in listed["classes"]] == ["vegetable", "ox", "clock"]
    assert [one["samples"] for one in listed["classes"]] == [8, 8, 8]
    (entry,) = listed["audits"]
    assert (entry["audit"], entry["problem"]) == (made, None)
    # another server over the same folder sees the same
    other = TestClient(
        create_app([sl.open(db.path, embedder=WordEmbedder())]), base_url="http://localhost"
    )
    assert fetch(other, "audits/1").json() == made


def test_the_result_is_the_audits(client, db):
    save(client, settings={"threshold": [0.0, None], "seed": 5})
    found = fetch(client, "audits/1/result").json()
    plain = db.audit("ox", plain_concepts(), threshold=(0.0, None), seed=5)
    assert (found["suspect"], found["p_value"]) == (plain.suspect, plain.p_value)
    assert [one["component"] for one in found["components"]] == plain.frame["component"].to_list()
    for one, record in zip(found["components"], plain.frame.to_dict("records"), strict=True):
        assert db.row(sl.Component.parse(one["component"])) == record["row"]
        assert one["layer"] == record["layer"]
        for key in ("verdict", "mean", "max", "valid", "spurious", "certainty", "valid_concept",
                    "spurious_concept", "valid_threshold", "spurious_threshold"):  # fmt: skip
            assert one[key] == record[key]
    shares = {(one["layer"], one["verdict"]): one["by_relevance"] for one in found["shares"]}
    for verdict in ("valid", "spurious", "both", "unexpected"):
        weight = sum(c["weight"] for c in found["components"] if c["verdict"] == verdict)
        assert weight == pytest.approx(plain.share(verdict))
        assert shares[ALL, verdict] == plain.share(verdict)
    assert sum(one["relevance"] for one in found["concepts"]) == pytest.approx(
        1 - plain.share("unexpected") + plain.share("both")
    )


@pytest.mark.slow
def test_what_there_is_no_side_for_is_null(client):
    save(client, spurious=[])
    found = fetch(client, "audits/1/result").json()
    assert found["p_value"] is None
    assert fetch(client, "audits/1/standing").json()["kind"] == "no verdict"
    assert {one["spurious"] for one in found["components"]} == {None}
    assert {one["side"] for one in found["null_shares"]} == {"valid"}


def test_sets_are_offered_with_their_class_in_this_model(client, db):
    db.audits.add("clock", plain_concepts(), name="mine")
    sets = {one["name"]: one for one in fetch(client, "concept-sets").json()}
    assert sets["paper-ox"]["logit"] == 1
    assert len(sets["paper-ox"]["valid"]) == 16
    assert sets["artefacts"]["target"] is None
    assert sets["demo-world/vegetable"]["logit"] == 0
    assert sets["paper-imagenet/castle"]["logit"] is None
    assert sets["paper-vocabulary"]["other_concepts"] == 696
    assert sets["audit:1"] == {
        "name": "audit:1", "target": "clock", "logit": 3, "saved": True, "other_concepts": 0,
        "valid": [{"text": one, "path": [], "images": []} for one in VALID],
        "spurious": [{"text": one, "path": [], "images": []} for one in SPURIOUS],
    }  # fmt: skip


def test_an_audit_begins_with_sets_and_own_words(client, db):
    db.audits.add("clock", plain_concepts(["hand"], []))
    made = save(client, from_sets=["demo-world", "artefacts", "audit:1"], target="vegetable",
                valid=terms(["  root   vegetable "]), spurious=[])  # fmt: skip
    vegetable = ConceptSet.load("demo-world/vegetable")
    wanted = [one.name for one in vegetable.concepts] + ["hand", "root vegetable"]
    assert [one["text"] for one in made["valid"]] == wanted
    assert len(made["spurious"]) == 27
    assert made["sources"][-1] == "clock"
    assert made["target"] == 0
    # a set of another class may be chosen by its own name, a family only has its class's
    assert save(client, from_sets=["demo-world/clock"], target="vegetable", valid=[])["id"] == 3
    assert (
        fetch(client, "audits", "POST", {"target": "ox", "from_sets": ["demo-world"]})
        .json()["value"]
        .startswith("No concept set is for the class 'ox'")
    )


def test_edits_are_kept_and_an_older_tab_is_refused(client):
    first = save(client)
    edit = {"revision": 1, "valid": terms(["cat"]), "reviews": {"second:1": {"note": " dark  "}}}
    second = fetch(client, "audits/1", "PUT", edit).json()
    assert (second["revision"], [one["text"] for one in second["valid"]]) == (2, ["cat"])
    assert second["spurious"] == first["spurious"]
    assert second["reviews"]["second:1"]["note"] == "dark"
    refused = fetch(client, "audits/1", "PUT", {"revision": 1, "name": "older"})
    assert refused.status_code == 409
    assert refused.json()["kind"] == "EditError"
    assert "Load the newer one" in refused.json()["remedy"]
    assert fetch(client, "audits/1").json() == second
    assert fetch(client, "audits/1?revision=1", "DELETE").status_code == 409
    assert fetch(client, "audits/1?revision=2", "DELETE").status_code == 204
    gone = fetch(client, "audits/1")
    assert (gone.status_code, gone.json()["value"]) == (404, "Unknown audit 1.")


def test_trying_saves_nothing(client, db):
    body = {"target": "ox", "valid": terms(VALID), "spurious": terms(SPURIOUS)}
    tried = fetch(client, "audits/preview", "POST", body).json()
    assert tried["p_value"] == db.audit("ox", plain_concepts()).p_value
    assert db.audits.numbers() == []
    save(client)
    assert fetch(client, "audits/1/result").json() == tried


def test_files_hold_what_the_page_shows(client, db, tmp_path):
    made = save(client, name="Ox & café", target="ox")
    edit = {"revision": 1, "reviews": {"first:0": {"status": "dismissed", "note": 'a, "b"\nc'}}}
    fetch(client, "audits/1", "PUT", edit)
    answer = fetch(client, "audits/1/components.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="audit-1-ox-caf.csv"'
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    plain = db.audit("ox", plain_concepts()).frame
    assert [one["component"] for one in lines] == plain["component"].to_list()
    np.testing.assert_allclose([float(one["valid"]) for one in lines], plain["valid"])
    noted = {one["component"]: (one["review"], one["note"]) for one in lines if one["review"]}
    assert noted == {"first:0": ("dismissed", 'a, "b"\nc')}

    toml = fetch(client, "audits/1/concepts.toml")
    (tmp_path / "back.toml").write_bytes(toml.content)
    back = ConceptSet.load(tmp_path / "back.toml")
    assert back.concepts == plain_concepts().concepts
    assert (back.name, back.target) == (made["name"], "ox")
    read = fetch(client, "concept-sets/read", "POST", {"filename": "back.toml", "text": toml.text})
    assert [one["text"] for one in read.json()["valid"]] == VALID
    assert read.json()["logit"] == 1


def test_a_preview_by_a_saved_audit_follows_its_edits(client, db):
    save(client)
    body = {"target": "ox", "from_sets": ["audit:1"]}
    before = fetch(client, "audits/preview", "POST", body).json()
    assert {one["concept"] for one in before["concepts"]} >= set(SPURIOUS)
    edit = {"revision": 1, "spurious": terms(["tree", "lamp"])}
    assert fetch(client, "audits/1", "PUT", edit).status_code == 200
    after = fetch(client, "audits/preview", "POST", body).json()
    plain = db.audit("ox", plain_concepts(spurious=["tree", "lamp"]))
    assert [one["spurious"] for one in after["components"]] == pytest.approx(
        plain.frame["spurious"].to_list()
    )
    assert {one["concept"] for one in after["concepts"]} == {*VALID, "tree", "lamp"}


def test_no_note_or_concept_of_the_csv_is_run_as_a_formula(client):
    save(client, valid=terms(["=1+1"]), spurious=terms(["@sum"]))
    name = fetch(client, "audits/1/result").json()["components"][0]["component"]
    edit = {"revision": 1, "reviews": {name: {"note": '+HYPERLINK("http://evil.example")'}}}
    fetch(client, "audits/1", "PUT", edit)
    lines = list(csv.DictReader(io.StringIO(fetch(client, "audits/1/components.csv").text)))
    assert {one["note"] for one in lines} == {"", '\'+HYPERLINK("http://evil.example")'}
    assert {one["valid_concept"] for one in lines} == {"'=1+1"}
    assert {one["spurious_concept"] for one in lines} == {"'@sum"}
    assert all(-1 <= float(one["mean"]) <= 1 for one in lines)  # a minus of a number stays


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.json", "[" * 100_000),
        ("a.toml", "a = " + "[" * 100_000),
        ("a.json", "1" * 5_000),
        ("a.csv", "concept\n" + "x" * 200_000),
    ],
)
def test_a_file_that_no_reader_takes_is_refused(client, file, text):
    answer = fetch(client, "concept-sets/read", "POST", {"filename": file, "text": text})
    assert answer.status_code == 400
    assert answer.json()["kind"] == "ConceptError"
    assert "cannot be read" in answer.json()["value"]


@pytest.mark.slow
def test_the_report_has_the_lists_the_thresholds_and_the_notes(client, db):
    save(client, settings={"threshold": [0.125, None]})
    name = fetch(client, "audits/1/result").json()["components"][0]["component"]
    edit = {"revision": 1, "reviews": {name: {"status": "confirmed", "note": "<i>a horn</i>"}}}
    fetch(client, "audits/1", "PUT", edit)
    answer = fetch(client, "audits/1/report.html")
    assert answer.headers["content-disposition"] == 'attachment; filename="audit-1-ox.html"'
    page = answer.text
    for part in ("Review by people", "&lt;i&gt;a horn&lt;/i&gt;", "confirmed", "revision 2",
                 "grey wolf", "stone", "valid 0.125, spurious calibrated", db.fingerprint,
                 db.manifest.embedder.fingerprint, "--saved 1"):  # fmt: skip
        assert part in page, part
    assert "<i>a horn" not in page
    assert "1 of " in page


@pytest.mark.slow
def test_an_audit_of_an_older_build_says_so_and_is_computed_anew(client, db):
    save(client)
    file = db.path / "analysis" / "audits" / "1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "database": "0" * 64}))
    assert fetch(client, "audits/1").json()["stale"]
    assert fetch(client, "audits/1/result").status_code == 200
    assert "another build" in fetch(client, "audits/1/report.html").text
    renewed = fetch(client, "audits/1", "PUT", {"revision": 1, "update_build": True}).json()
    assert not renewed["stale"]


def test_a_damaged_audit_hides_no_other(client, db):
    save(client)
    save(client)
    (db.path / "analysis" / "audits" / "1.json").write_text("{")
    listed = {one["id"]: one for one in fetch(client, "audits").json()["audits"]}
    assert "cannot be read" in listed[1]["problem"]
    assert listed[2]["problem"] is None
    assert fetch(client, "concept-sets").status_code == 200
    assert fetch(client, "audits/1").status_code == 409


def test_concepts_by_image_stay_and_no_path_comes_from_a_page(client, db):
    picture = next((db.path.parent / "images").glob("*/*.png"))
    concept = Concept("brand", (), "spurious", (picture,))
    db.audits.add("ox", ConceptSet((*plain_concepts().concepts, concept), "with images"))
    made = fetch(client, "audits/1").json()
    assert made["spurious"][-1] == {"text": "brand", "path": [], "images": [picture.name]}
    assert str(picture.parent) not in json.dumps(made)
    edit = {"revision": 1, "valid": [*made["valid"], made["spurious"][-1]],
            "spurious": made["spurious"][:-1]}  # fmt: skip
    moved = fetch(client, "audits/1", "PUT", edit).json()
    assert moved["valid"][-1]["images"] == [picture.name]
    assert db.audits.get(1).valid[-1].images == (str(picture.resolve()),)
    wrong = {"revision": 2, "valid": [{"text": "other", "images": ["x.png"]}]}
    assert "no concept by image named 'other'" in fetch(client, "audits/1", "PUT", wrong).text
    sneaky = {"revision": 2, "valid": [{"text": "x", "images": ["/etc/passwd"]}]}
    fetch(client, "audits/1", "PUT", sneaky)
    assert db.audits.get(1).valid[0].images == ()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"target": "ox", "valid": terms(["Tree"]), "spurious": terms(["tree "])}, 400,
         "lists as both valid and spurious: tree"),
        ({"target": "horse"}, 400, "Unknown class 'horse'"),
        ({"target": "ox", "from_sets": ["/etc/passwd"]}, 400, "'/etc/passwd' is neither"),
        ({"target": "ox", "from_sets": ["../x"]}, 400, "'../x' is neither a file nor"),
        ({"target": "ox", "from_sets": ["audit:9"]}, 409, "no audit 9"),
        ({"target": "ox", "valid": terms(["x" * 300])}, 400, "300 characters"),
        ({"target": "ox", "valid": terms(f"w{i}" for i in range(2001))}, 400, "2001 concepts"),
        ({"target": "ox", "valid": terms("x" for i in range(5001))}, 422, "valid"),
        ({"target": "ox", "settings": {"level": 0}}, 400, "level is '0'"),
        ({"target": "ox", "settings": {"threshold": [None, 7]}}, 400, "threshold is '"),
        ({"target": "ox", "settings": {"layers": ["third"]}}, 404, "third"),
        ({"valid": []}, 422, "target"),
    ],
)  # fmt: skip
def test_what_could_never_be_computed_is_refused(client, db, body, status, said):
    answer = fetch(client, "audits", "POST", body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["value"]
    assert db.audits.numbers() == []


def test_what_cannot_be_computed_yet_is_saved_and_says_why(client):
    save(client, valid=[], spurious=[])
    answer = fetch(client, "audits/1/result")
    assert (answer.status_code, answer.json()["kind"]) == (400, "ConceptError")
    assert "no valid and no spurious" in answer.json()["value"]
    assert fetch(client, "audits/1/concepts.toml").status_code == 400
    save(client, target="zebra")
    assert "no relevance for class 2" in fetch(client, "audits/2/result").json()["value"]
    assert (
        fetch(client, "concept-sets/read", "POST", {"filename": "a.exe", "text": ""}).status_code
        == 400
    )


@pytest.mark.slow
def test_databases_without_texts_or_relevance_say_so(tmp_path, built):
    pictures = built.path.parent / "images"
    blind = build(tmp_path / "blind", pictures, ColourEmbedder())
    bare = build(tmp_path / "bare", pictures, WordEmbedder(), relevance=False)
    client = TestClient(create_app([blind, bare]), base_url="http://localhost")
    assert fetch(client, "audits").json()["has_text"] is False
    save(client)
    answer = fetch(client, "audits/1/result")
    assert (answer.status_code, answer.json()["kind"]) == (400, "EmbedderError")
    answer = client.get("/api/v1/models/1/audits")
    assert answer.json()["kind"] == "RelevanceError"
    assert "--relevance" in answer.json()["remedy"]


def test_a_folder_for_reading_only_keeps_edits_for_as_long_as_the_server(built):
    from semlens.lenses.audit.saved_audits import SavedAudits

    db = sl.open(built.path, embedder=WordEmbedder())
    db.audits = SavedAudits(db, keeps=False)
    client = TestClient(create_app([db]), base_url="http://localhost")
    made = save(client, settings={"level": 0.2})
    assert made["persistent"] is False
    assert fetch(client, "audits").json()["persistent"] is False
    number = made["id"]
    assert fetch(client, f"audits/{number}", "PUT", {"revision": 1, "name": "x"}).status_code == 200
    found = fetch(client, f"audits/{number}/result").json()
    assert found["p_value"] == db.audits.run(number).p_value
    assert db.audits.get(number).settings == AuditSettings(level=0.2)
    assert not (built.path / "analysis" / "audits" / f"{number}.json").exists()
