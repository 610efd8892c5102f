"""The audit of all classes, and trials of the model, against the analysis called directly."""

from __future__ import annotations

import pytest
from conftest import (
    VEGETABLES,
    LittleNet,
    WordEmbedder,
    build_vegetables,
    plain_colours,
    spread_logits,
    to_tensor,
    when_done,
    write_pictures,
)
from fastapi.testclient import TestClient

import semlens as sl
from semlens.data.artefact import Hue, Patch
from semlens.data.image_folder import ImageFolder
from semlens.lenses.audit.class_audits import audit_all
from semlens.lenses.audit.class_verdict import KINDS
from semlens.lenses.audit.model_test import model_test
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app

NAMES = VEGETABLES
CHOSEN = ["first:1", "second:0", "second:3"]


def little():
    net = spread_logits(LittleNet(), plain_colours())
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", NAMES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_vegetables(tmp_path_factory.mktemp("trials"), little())


@pytest.fixture
def db(built):
    folder = built.path / "analysis" / "audits"
    for file in folder.glob("*") if folder.is_dir() else ():
        file.unlink()
    return sl.open(built.path, model=little(), embedder=WordEmbedder())


@pytest.fixture
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path, body=None, status=200, **params):
    """Ask until the work is done, as the page does."""
    method, path = "GET" if body is None else "POST", f"/api/v1/models/0/{path}"
    answer = when_done(lambda: client.request(method, path, json=body, params=params))
    assert answer.status_code == status, answer.text
    return answer.json()


def assert_error(error, *parts):
    text = f"{error['value']} {error['expected']} {error['remedy']}"
    for part in parts:
        assert part in text


def lists(valid, spurious, name, target):
    made = [Concept(one, (), "valid") for one in valid]
    made += [Concept(one, (), "spurious") for one in spurious]
    return ConceptSet(tuple(made), name, target=target)


# -- the sweep --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_sweep_is_audit_all(client, db):
    """A saved audit's lists where there is one; else the bundled sets and the artefacts."""
    db.audits.add("clock", lists(["dog"], ["tree"], "older", None))
    latest = db.audits.add("clock", lists(["dog", "sea"], ["stone"], "mine", None))
    db.audits.add("vegetable", lists([], [], "empty", None))
    found = fetch(client, "sweep")
    vegetable = ConceptSet.load("demo-world/vegetable")
    marked = (*vegetable.concepts, *ConceptSet.load("artefacts").concepts)
    sets = [lists(["dog", "sea"], ["stone"], "mine", "clock"), ConceptSet.load("paper-ox")]
    sets += [ConceptSet(marked, "vegetable", "", vegetable.templates, "vegetable")]
    expected = audit_all(db, sets)
    by_name = {one["name"]: one for one in found["classes"]}
    assert set(by_name) == {"vegetable", "ox", "clock"}
    assert by_name["clock"]["audit"] == latest.id
    assert by_name["clock"]["sets"] == []
    assert by_name["vegetable"]["audit"] is None
    assert by_name["vegetable"]["sets"] == ["demo-world/vegetable", "artefacts"]
    assert by_name["ox"]["sets"] == ["paper-ox"]  # which names what is spurious itself
    for name in by_name:
        row = expected.frame.set_index("class").loc[name]
        for key in ("valid", "both", "spurious", "unexpected"):
            assert by_name[name][key] == pytest.approx(row[key], abs=1e-12), (name, key)
        stands = by_name[name]["standing"]
        assert stands["p_value"] == pytest.approx(row["p_value"], abs=1e-12)
        assert stands["q_value"] == pytest.approx(row["q_value"], abs=1e-12)
        assert stands["kind"] == row["standing"]
        assert by_name[name]["components"] == row["components"]
        assert by_name[name]["target"] == NAMES.index(name)
        means = db.relevance(NAMES.index(name)).set_index("component")["mean"]
        of_class = fetch(client, f"verdicts/{NAMES.index(name)}")["components"]
        assert len(of_class) == by_name[name]["components"] > 0
        for one in of_class:  # the share that every page tells of a component
            row = db.row(sl.Component.parse(one["component"]))
            assert one["mean"] == pytest.approx(means[row])
    ranks = [
        (KINDS.index(one["standing"]["kind"]), one["standing"]["p_value"])
        for one in found["classes"]
    ]
    assert ranks == sorted(ranks)
    assert found["without_concepts"] == 0


@pytest.mark.slow
def test_a_row_of_the_sweep_is_the_audit_that_it_begins(client, db):
    row = next(one for one in fetch(client, "sweep")["classes"] if one["name"] == "vegetable")
    body = {"target": row["target"], "from_sets": row["sets"]}
    begun = fetch(client, "audits", body, 201)
    found = fetch(client, f"audits/{begun['id']}/result")
    shares = {
        one["verdict"]: one["by_relevance"] for one in found["shares"] if one["layer"] == "all"
    }
    for verdict, share in shares.items():
        assert row[verdict] == pytest.approx(share, abs=1e-12)
    assert row["standing"]["p_value"] == found["p_value"]
    stands = fetch(client, f"audits/{begun['id']}/standing")
    assert {**stands, "q_value": None} == {**row["standing"], "q_value": None}
    assert stands["q_value"] == pytest.approx(row["standing"]["q_value"])
    # and from now on it is that audit
    row = next(one for one in fetch(client, "sweep")["classes"] if one["name"] == "vegetable")
    assert row["audit"] == begun["id"]


def test_a_list_that_is_too_long_costs_one_class_only(client, db):
    texts = [f"word {i}" for i in range(60)]
    db.audits.add("clock", lists(texts, ["tree"], "long", None))
    found = fetch(client, "sweep")
    assert {one["name"] for one in found["classes"]} == {"vegetable", "ox"}
    assert list(found["skipped"]) == ["clock"]
    assert "too small for a set of 60" in found["skipped"]["clock"]


def test_without_relevance_the_sweep_says_so(tmp_path):
    images = ImageFolder(write_pictures(tmp_path / "images", 6))
    made = sl.build(tmp_path / "db", little(), images, WordEmbedder(), ["first"], examples=2)
    plain = TestClient(create_app([made]), base_url="http://localhost")
    assert_error(fetch(plain, "sweep", status=400), "relevance")


# -- against artefacts ------------------------------------------------------------------------


def test_the_test_is_model_test(client, db):
    artefacts = [{"kind": "hue", "strength": 0.6}, {"kind": "patch", "colour": "blue"}]
    body = {"target": 1, "artefacts": artefacts, "count": 7, "seed": 3}
    found = fetch(client, "experiments/model-test", body)
    expected = model_test(
        db, 1, count=7, seed=3,
        artefacts=[Hue(opacity=0.6), Patch(colour=(0, 0, 255))],
    )  # fmt: skip
    assert found["name"] == "ox"
    assert found["real"]["logits"] == pytest.approx(expected.real.logit.tolist())
    assert [one["name"] for one in found["sets"]] == ["hue", "patch", "all artefacts"]
    for one, other in zip(found["sets"], expected.sets, strict=True):
        assert one["auroc"] == other.auroc
        assert tuple(one["interval"]) == other.interval
        assert one["auroc_without"] == other.auroc_without
        assert one["scores"]["top1"] == other.outputs.top(1)
        assert one["scores"]["logits"] == pytest.approx(other.outputs.logit.tolist())
        assert one["without"]["images"] == 7


@pytest.mark.parametrize(
    ("change", "status", "parts"),
    [
        ({"artefacts": []}, 422, ["artefacts"]),
        ({"artefacts": [{"kind": "paste"}]}, 422, ["kind"]),
        ({"artefacts": [{"kind": "text"}]}, 400, ["words"]),
        ({"target": 2}, 400, ["zebra", "no samples"]),
        ({"count": 5000}, 422, ["count"]),
    ],
)
def test_bad_tests_are_refused(client, change, status, parts):
    body = {"target": 1, "artefacts": [{"kind": "hue"}], **change}
    assert_error(fetch(client, "experiments/model-test", body, status), *parts)


def test_without_the_model_it_says_how_to_serve_it(db):
    bare = sl.open(db.path, embedder=WordEmbedder())
    nobody = TestClient(create_app([bare]), base_url="http://localhost")
    body = {"target": 1, "artefacts": [{"kind": "hue"}]}
    error = fetch(nobody, "experiments/model-test", body, 400)
    assert_error(error, "python:little", f"serve {db.path} --model SPEC")


def test_without_the_images_it_says_so(db):
    gone = sl.open(db.path, model=little(), images=str(db.path / "no-such-folder"))
    client = TestClient(create_app([gone]), base_url="http://localhost")
    body = {"target": 1, "artefacts": [{"kind": "hue"}]}
    assert_error(fetch(client, "experiments/model-test", body, 400), "no-such-folder")


@pytest.mark.slow
def test_the_report_has_the_graph_and_the_last_test_of_the_model(client, db):
    made = db.audits.add("ox", lists(["dog"], ["tree"], "mine", None))

    def report():
        path = f"/api/v1/models/0/audits/{made.id}/report.html"
        return when_done(lambda: client.get(path)).text

    before = report()
    assert "No model test was requested" in before
    assert "lines the relevance that flows between them" in before
    fetch(
        client,
        "experiments/model-test",
        {"target": 1, "artefacts": [{"kind": "stripes"}], "count": 6},
    )
    after = report()
    assert "No model test was requested" not in after
    assert "stripes" in after
