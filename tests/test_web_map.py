"""The map over HTTP: bytes against the library, waiting for UMAP, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, to_tensor, when_done
from fastapi.testclient import TestClient
from safetensors.numpy import load

import semlens as sl
from semlens.lenses.concepts import ConceptSet
from semlens.web.app import create_app

LAYERS = ["first", "second"]
BASE = "/api/v1/models/0"
CONCEPTS = ConceptSet.of(["dog", "sea", "car"])


@pytest.fixture(scope="module")
def net():
    return sl.SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))


@pytest.fixture(scope="module")
def base(tmp_path_factory, pictures, net):
    path = tmp_path_factory.mktemp("web-map") / "one.semlens"
    images = sl.ImageFolder(pictures)
    classes = path.parent / "classes.csv"
    classes.write_text("class0,0\nclass1,1\n")
    sl.build(path, net, images, WordEmbedder(), LAYERS, examples=6, relevance=True, classes=classes)
    return path


@pytest.fixture(scope="module")
def db(base, tmp_path_factory):
    return sl.open(
        shutil.copytree(base, tmp_path_factory.mktemp("served") / "one"), embedder=WordEmbedder()
    )


@pytest.fixture(scope="module")
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path, body=None):
    """Ask as the page does: again while the server is at work."""
    method = "GET" if body is None else "POST"
    return when_done(lambda: client.request(method, BASE + path, json=body))


def metadata(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


@pytest.mark.slow
def test_a_map_that_is_not_there_says_what_is_done_and_is_kept(base, tmp_path):
    db = sl.open(shutil.copytree(base, tmp_path / "one"), embedder=WordEmbedder())
    client = TestClient(create_app([db]), base_url="http://localhost")
    said: list[dict[str, Any]] = []
    answer = when_done(lambda: client.get(f"{BASE}/map"), said.append)
    assert answer.status_code == 200
    assert any((db.path / "analysis").glob("map-*.parquet"))
    texts = [one["description"] for one in said if "Computing the map" in one["description"]]
    for text in texts:
        assert f"{int(db.has_examples.sum())} components" in text
        assert "saved in the database" in text
    again = TestClient(
        create_app([sl.open(db.path, embedder=WordEmbedder())]), base_url="http://localhost"
    )
    assert fetch(again, "/places").json()["reused"]
    np.testing.assert_array_equal(
        load(fetch(again, "/map").content)["x"], load(answer.content)["x"]
    )


@pytest.mark.slow
def test_the_bytes_are_the_map(client, db):
    tensors = load(fetch(client, "/map").content)
    found = db.concept_map()
    kinds = {name: str(value.dtype) for name, value in tensors.items()}
    assert kinds == {
        "x": "float32", "y": "float32", "row": "int32", "layer": "int16", "place": "int16",
    }  # fmt: skip
    np.testing.assert_array_equal(np.stack([tensors["x"], tensors["y"]], 1), found.atlas.points)
    np.testing.assert_array_equal(tensors["place"], found.frame["place"])
    assert tensors["row"].tolist() == [
        db.row(sl.Component.parse(name)) for name in found.frame["component"]
    ]
    assert [LAYERS[place] for place in tensors["layer"]] == found.frame["layer"].tolist()


def test_the_places_are_those_of_the_library(client, db):
    answer = fetch(client, "/places").json()
    found = db.concept_map()
    assert answer["components"] == len(found)
    assert (answer["method"], answer["seed"], answer["layout"]) == ("kmeans", 0, "UMAP")
    assert answer["notice"] is None
    assert answer["spread"]
    assert answer["clusters"] == len(found.clusters)
    assert len(answer["places"]) == len(found.places)
    atlas = found.atlas
    for one, row in zip(answer["places"], found.places.to_dict("records"), strict=True):
        number = row["place"]
        assert one["place"] == number
        assert one["size"] == row["size"]
        assert one["labels"] == row["labels"]
        assert one["scores"] == pytest.approx(row["scores"])
        assert found.frame["place"][one["medoid"]] == number
        assert (one["light"], one["dark"]) == atlas.colours[number]
        if row["labels"]:
            assert (one["x"], one["y"]) == pytest.approx(tuple(atlas.names[number].tolist()))
        else:
            assert (one["x"], one["y"], one["rings"]) == (None, None, [])
        for ring, theirs in zip(one["rings"], atlas.hulls[number], strict=True):
            np.testing.assert_allclose(np.reshape(ring, (-1, 2)), theirs, atol=0.0051)


@pytest.mark.parametrize("by", ["clarity", "redundancy", "polysemanticity"])
def test_values_by_measure(client, db, by):
    content = fetch(client, f"/colours?by={by}").content
    again = load(fetch(client, f"/colours?by={by}").content)["value"]
    np.testing.assert_array_equal(again, load(content)["value"])
    value = load(content)["value"]
    expected = db.scores().frame[by].to_numpy()[db.has_examples]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    said = metadata(content)
    assert (said["title"], said["signed"]) == (by, "false")
    assert float(said["low"]) == np.nanmin(value)
    assert float(said["high"]) == np.nanmax(value)


def test_values_by_relevance_are_shares_and_zero_where_none_is_kept(client, db):
    content = fetch(client, "/colours?by=relevance&class=1").content
    value = load(content)["value"]
    kept = {int(row): mean for row, mean in db.relevance(1)[["component", "mean"]].to_numpy()}
    expected = [kept.get(int(row), 0.0) for row in np.flatnonzero(db.has_examples)]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert value.any()
    said = metadata(content)
    assert said["signed"] == "true"
    assert "'b'" in said["title"]
    assert -float(said["low"]) == float(said["high"]) == np.abs(value).max()


@pytest.mark.slow
def test_labels_are_those_of_places_until_some_are_kept(base, tmp_path):
    db = sl.open(shutil.copytree(base, tmp_path / "one"), embedder=WordEmbedder())
    client = TestClient(create_app([db]), base_url="http://localhost")

    def labels():
        content = fetch(client, "/map/labels").content
        said = metadata(content)
        names = [*json.loads(said["names"]), None]
        return [names[code] for code in load(content)["label"]], said["source"]

    texts, source = labels()
    assert source == "places"
    theirs = db.concept_map().frame["place_label"]
    assert texts == [text if isinstance(text, str) else None for text in theirs]
    kept = db.label(CONCEPTS, threshold=-2.0)
    kept.save_to_database("mine")
    texts, source = labels()
    assert source == "labels-mine"
    assert texts == [kept.of(db.component(int(row))) for row in np.flatnonzero(db.has_examples)]
    chosen = fetch(client, "/selection", {"rows": [1, 8, 12]}).json()
    assert chosen["source"] == "labels-mine"
    assert [one["label"] for one in chosen["components"]] == [
        kept.of(db.component(row)) for row in (1, 8, 12)
    ]


def test_a_selection_counts_and_names(client, db):
    answer = fetch(client, "/selection", {"rows": [12, 1, 8, 8]}).json()
    assert answer["count"] == 3
    assert [one["component"] for one in answer["components"]] == [
        str(db.component(row)) for row in (1, 8, 12)
    ]
    alive = db.has_examples
    assert answer["layers"] == [
        {"name": "first", "count": 1, "share": pytest.approx(1 / 3), "total": int(alive[:6].sum())},
        {
            "name": "second",
            "count": 2,
            "share": pytest.approx(2 / 3),
            "total": int(alive[6:].sum()),
        },
    ]
    assert sum(one["count"] for one in answer["labels"]) + answer["unlabelled"] == 3
    assert answer["distinct_labels"] == len(answer["labels"])


def test_a_selection_as_csv(client, db):
    answer = fetch(client, "/selection.csv", {"rows": [12, 1]})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "selection.csv" in answer.headers["content-disposition"]
    frame = pd.read_csv(io.StringIO(answer.text))
    assert frame["component"].tolist() == [str(db.component(1)), str(db.component(12))]
    tensors = load(fetch(client, "/map").content)
    places = [tensors["row"].tolist().index(row) for row in frame["row"]]
    assert frame["place"].tolist() == tensors["place"][places].tolist()


def test_no_label_of_the_csv_is_run_as_a_formula(base, tmp_path):
    db = sl.open(shutil.copytree(base, tmp_path / "one"), embedder=WordEmbedder())
    client = TestClient(create_app([db]), base_url="http://localhost")
    labels = db.label(ConceptSet.of(["=1+1"]), threshold=-2.0).to_pandas()
    db.save_analysis("labels-mine", labels.assign(label="=1+1"))
    text = fetch(client, "/selection.csv", {"rows": [1, 12]}).text
    assert pd.read_csv(io.StringIO(text))["label"].tolist() == ["'=1+1", "'=1+1"]


@pytest.mark.parametrize(
    ("path", "status", "kind", "parts"),
    [
        ("/colours?by=colour", 400, "ConceptError", ("'colour'", "clarity", "Choose one")),
        ("/colours?by=place", 400, "ConceptError", ("'place'",)),
        ("/colours?by=relevance", 400, "ConceptError", ("no class", "Choose a class")),
        ("/colours?by=clarity&class=1", 400, "ConceptError", ("class 1", "Leave out")),
        ("/colours?by=relevance&class=3", 400, "RelevanceError", ("class 3", "2 classes")),
        ("/colours?by=relevance&class=99", 400, "RelevanceError", ("'99'", "0 to 3")),
        (f"/colours?by=relevance&class={10**30}", 422, "ServeError", ("'class'", "2147483647")),
        (f"/graph?class={10**30}", 422, "ServeError", ("'class'", "2147483647")),
    ],
)
def test_colours_that_cannot_be(client, path, status, kind, parts):
    answer = fetch(client, path)
    assert answer.status_code == status
    found = answer.json()
    assert found["kind"] == kind
    text = " ".join(found[key] for key in ("value", "expected", "remedy"))
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("rows", "status", "part"),
    [
        ([], 404, "No component is selected"),
        ([5, 999], 404, "Row 999"),
        ([5, 10**30], 422, "'rows.1'"),
        ([2**31 - 1], 404, "Row 2147483647"),
        (["x"], 422, "'rows.0'"),
        (None, 422, "rows"),
    ],
)
def test_selections_that_cannot_be(client, rows, status, part):
    for path in ("/selection", "/selection.csv"):
        answer = fetch(client, path, {"rows": rows})
        assert answer.status_code == status
        assert part in answer.json()["value"]


def test_a_database_without_relevance_or_texts_has_a_map(tmp_path, pictures, net):
    path = tmp_path / "plain"
    images = sl.ImageFolder(pictures)
    db = sl.build(path, net, images, ColourEmbedder(), ["first"], examples=4)
    client = TestClient(create_app([db]), base_url="http://localhost")
    answer = fetch(client, "/places").json()
    assert answer["layout"] == "principal axes"
    assert all(one["labels"] == [] for one in answer["places"])
    assert len(load(fetch(client, "/map").content)["x"]) == db.has_examples.sum()
    found = fetch(client, "/colours?by=relevance&class=0").json()
    assert found["kind"] == "RelevanceError"
    assert "--relevance" in found["remedy"]
