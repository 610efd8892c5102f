"""The class pages' answers against sums by hand, and what they say when something is missing."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor, when_done
from fastapi.testclient import TestClient
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.lenses.class_relevance import class_table, relevant_components
from semlens.lenses.classes import class_samples
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.graph.attribution_graph import attribution_graph
from semlens.lenses.graph.graph_result import UNLABELLED
from semlens.lenses.graph.relevance_trace import MAX_COMPONENTS
from semlens.models.subject import SubjectModel
from semlens.types import Component
from semlens.web.app import create_app

LAYERS = ["first", "second"]


@pytest.fixture(scope="module")
def subject():
    names = ["class0", "class1", "c", "d"]
    return SubjectModel(LittleNet(seed=3), to_tensor, "32", "python:little", names)


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures, subject):
    """A database with relevance, and with labels that say nothing of some components."""
    path = tmp_path_factory.mktemp("classes") / "little"
    made = sl.build(
        path, subject, ImageFolder(pictures), WordEmbedder(), LAYERS, examples=3, crop="none",
        relevance=True,
    )  # fmt: skip
    concepts = ConceptSet.of(["dog", "car", "tree"])
    middle = float(np.median(made.label(concepts).score[:, 0]))
    made.label(concepts, threshold=middle).save_to_database("mine")
    return made


@pytest.fixture(scope="module")
def client(db, subject):
    app = create_app([db])
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def fetch(client, path, status=200, **params):
    """Ask until the work is done."""
    answer = when_done(lambda: client.get(f"/api/v1/models/0/{path}", params=params))
    assert answer.status_code == status, answer.text
    return answer


def test_classes_are_counted_by_hand(db, client):
    table = db.relevance()
    expected = []
    for number, samples in db.relevance_classes.itertuples(index=False):
        reach = sum(1 for one in table.itertuples() if one[2] == number and one.max >= 0.01)
        name = f"class{number}"
        expected.append({"target": number, "name": name, "samples": samples, "relevant": reach})
    assert len(expected) == 2
    assert fetch(client, "classes").json() == expected
    assert list(class_table(db, minimum=2.0)["relevant"]) == [0, 0]


@pytest.mark.parametrize("minimum", [0.0, 0.05])
def test_relevance_is_added_up_by_hand(db, client, minimum):
    found = fetch(client, "classes/1/relevance", k=4, minimum=minimum).json()
    assert (found["target"], found["name"], found["samples"]) == (1, "class1", 20)
    assert (found["minimum"], found["coverage"], found["concepts"]) == (minimum, 0.8, "saved:mine")
    labels = {
        str(Component(one.layer, one.index, one.sign)): one.label
        for one in db.load_analysis("labels-mine").itertuples()
        if isinstance(one.label, str)
    }
    for name, layer in zip(LAYERS, found["layers"], strict=True):
        assert layer["layer"] == name
        assert layer["components"] == db.layer(name).rows
        parts = [(int(r), float(m), float(x)) for r, _, m, x in db.relevance(1, [name]).to_numpy()]
        parts.sort(key=lambda part: (-abs(part[1]), part[0]))
        total, running = 0.0, []
        for _, mean, _ in parts:
            total += abs(mean)
            running.append(total)
        assert layer["covered"] == pytest.approx(total)
        mostly = [place for place, value in enumerate(running, 1) if value >= 0.8]
        assert layer["components_for_coverage"] == (mostly[0] if mostly else None)
        assert layer["relevant"] == sum(1 for part in parts if part[2] >= minimum)
        listed = [
            (part, value)
            for part, value in zip(parts, running, strict=True)
            if part[2] >= minimum or abs(part[1]) >= minimum
        ][:4]
        assert len(layer["strongest"]) == len(listed) > 0
        for row, ((component, mean, largest), value) in zip(
            layer["strongest"], listed, strict=True
        ):
            assert row["component"] == str(db.component(component))
            assert row["label"] == labels.get(row["component"])
            assert row["mean"] == pytest.approx(mean)
            assert row["max"] == pytest.approx(largest)
            assert row["cumulative"] == pytest.approx(value)


def test_one_layer_can_be_asked_for(db, client):
    found = fetch(client, "classes/0/relevance", layer="second", k=2).json()
    assert [layer["layer"] for layer in found["layers"]] == ["second"]
    assert len(found["layers"][0]["strongest"]) == 2
    assert len(relevant_components(db, 0, layers=["second"], top=1)[0].strongest) == 1


@pytest.mark.parametrize(
    ("path", "status", "parts"),
    [
        ("classes/9/relevance", 404, ["Class 9", "0 (class0), 1 (class1)"]),
        ("classes/1/relevance?layer=7", 404, ["Layer '7' is not in", "first, second"]),
        ("classes/1/relevance?concepts=x", 400, ["Unknown concept set 'x'", "saved:mine"]),
        ("classes/1/relevance?minimum=nan", 422, ["minimum"]),
        ("classes/x/relevance", 422, ["'c'"]),
        ("graph", 422, ["class"]),
        ("graph?class=3", 400, ["'d' has no samples", "class0, class1"]),
        ("graph?class=9", 400, ["'9' has no samples"]),
        (f"graph?class=0&top={MAX_COMPONENTS + 1}", 422, ["top", str(MAX_COMPONENTS)]),
        ("graph?class=0&top=0", 422, ["top"]),
        ("graph?class=0&groups=x", 422, ["groups"]),
        ("graph?class=0&min_relevance=2", 422, ["min_relevance"]),
        ("graph?class=0&layer=5", 404, ["Layer '5' is not in"]),
    ],
)
def test_wrong_questions_are_answered(client, path, status, parts):
    answer = client.get(f"/api/v1/models/0/{path}")
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"kind", "value", "expected", "remedy"}
    for part in parts:
        assert part in " ".join(answer.json().values())


@pytest.mark.slow
def test_a_database_without_relevance_says_how_to_add_it(tmp_path, subject, pictures):
    sl.build(
        tmp_path / "db", "semlens/demo", pictures, "semlens/demo", ["layer3"], examples=2,
        crop="none",
    )  # fmt: skip
    with TestClient(create_app([tmp_path / "db"]), base_url="http://localhost") as client:
        for path in ("classes", "classes/0/relevance"):
            found = client.get(f"/api/v1/models/0/{path}")
            assert found.status_code == 400
            assert "no class relevance" in found.json()["value"]
            command = found.json()["remedy"]
            assert f"semlens build {tmp_path / 'db'} --model semlens/demo --data" in command
            assert "--layers layer3" in command
            assert command.endswith("--relevance")


@pytest.mark.parametrize("groups", ["label", "component"])
@pytest.mark.parametrize(("top", "minimum"), [(3, 0.0), (16, 0.1), (48, 0.02)])
def test_the_graph_is_that_of_the_package(db, subject, client, pictures, groups, top, minimum):
    params = {"class": 1, "top": top, "min_relevance": minimum, "groups": groups}
    found = fetch(client, "graph", **params).json()
    kept = db.load_analysis("labels-mine").itertuples()
    labels = {
        Component(one.layer, one.index, one.sign): one.label
        for one in kept
        if isinstance(one.label, str)
    }
    traced = attribution_graph(
        sl.open(db.path, model=subject, images=pictures), 1, labels if groups == "label" else None,
        samples=class_samples(db, 1, 30), minimum=minimum, top=top,
    )  # fmt: skip
    assert (found["target"], found["name"], found["images"]) == (1, "class1", 20)
    assert (found["rules"], found["conserves"]) == (traced.rules, True)
    assert (found["top"], found["minimum"], found["max_top"]) == (top, minimum, MAX_COMPONENTS)
    assert (found["groups"], found["concepts"]) == (groups, "saved:mine")
    assert [layer["name"] for layer in found["layers"]] == traced.layers
    for layer in found["layers"]:
        name = layer["name"]
        assert layer["components"] == db.layer(name).rows
        assert layer["nodes_shown"] == pytest.approx(traced.share_shown[name], abs=1e-5)
        assert layer["edges_shown"] == pytest.approx(traced.edges_shown[name], abs=1e-5)
        nodes = [node for node in found["nodes"] if node["layer"] == name]
        assert layer["components_shown"] == sum(len(node["components"]) for node in nodes) <= top
        assert layer["largest_share"] >= minimum
    assert found["overall"] == pytest.approx(traced.overall, abs=1e-5)
    assert [node["id"] for node in found["nodes"]] == [node.id for node in traced.nodes]
    for node, expected in zip(found["nodes"], traced.nodes, strict=True):
        assert (node["label"], node["layer"]) == (expected.label, expected.layer)
        assert node["components"] == list(expected.components)
        assert [node["mean"], node["maximum"]] == pytest.approx(
            [expected.mean, expected.maximum], abs=1e-5
        )
        assert {Component.parse(part).layer for part in node["components"]} <= {node["layer"]}
        assert node["shares"] == pytest.approx(expected.shares, abs=1e-5)
    weights = {(edge["source"], edge["target"]): edge["weight"] for edge in found["edges"]}
    assert weights == pytest.approx(
        {(e.source, e.target): e.weight for e in traced.edges}, abs=1e-5
    )
    if groups == "label":
        assert UNLABELLED in {node["label"] for node in found["nodes"]}


def test_groups_have_the_verdicts_that_the_pages_show(client):
    of = {
        entry["component"]: entry["verdict"]
        for entry in fetch(client, "verdicts/1").json()["components"]
    }
    found = fetch(client, "graph", **{"class": 1, "min_relevance": 0}).json()
    assert found["judged"] == bool(of)
    for node in found["nodes"][1:]:
        total = sum(map(abs, node["shares"]))
        amounts: dict[str, float] = {}
        for name, share in zip(node["components"], node["shares"], strict=True):
            kind = of.get(name, "no verdict")
            amounts[kind] = amounts.get(kind, 0) + abs(share) / total
        amounts = {kind: amount for kind, amount in amounts.items() if amount > 0}
        assert node["verdicts"] == (pytest.approx(amounts) if of else None)


def test_nothing_reaches_the_minimum(client):
    found = fetch(client, "graph", **{"class": 0, "min_relevance": 1}).json()
    assert [node["id"] for node in found["nodes"]] == ["target"]
    assert found["edges"] == []
    assert all(0 < layer["largest_share"] < 1 for layer in found["layers"])
    assert found["overall"] == 0


def test_the_graph_is_traced_once_and_kept(db, client):
    before = fetch(client, "graph", **{"class": 0}).json()
    kept = sorted(db.list_analyses("graph-"))
    assert kept
    # a new server, that has no model, reads the trace again
    with TestClient(
        create_app([sl.open(db.path, embedder=WordEmbedder())]), base_url="http://localhost"
    ) as other:
        assert fetch(other, "graph", **{"class": 0}).json() == before
        failed = fetch(other, "graph", status=400, **{"class": 0, "layer": "second"}).json()
    assert failed["kind"] == "ModelError"
    assert "'python:little'" in failed["value"]
    assert f"semlens serve {db.path} --model SPEC" in failed["remedy"]
    assert sorted(db.list_analyses("graph-")) == kept


def test_the_graph_comes_as_a_picture(client):
    params = {"class": 1, "top": 5}
    answer = fetch(client, "graph.svg", **params)
    assert answer.headers["content-type"].startswith("image/svg+xml")
    root = ElementTree.fromstring(answer.text)
    nodes = fetch(client, "graph", **params).json()["nodes"]
    assert len(root.findall("{http://www.w3.org/2000/svg}g")) == len(nodes)
    answer = fetch(client, "graph.png", **params)
    assert answer.headers["content-type"] == "image/png"
    drawn = Image.open(BytesIO(answer.content))
    assert drawn.width == pytest.approx(2 * float(root.attrib["width"]), abs=1)
