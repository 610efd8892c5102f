"""Labels of other programs: read from their files, refused if they do not fit, shown as ours."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import assert_says
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import ConceptError, LayerError
from semlens.lenses.labelling.component_labels import component_names
from semlens.lenses.result import plain
from semlens.lenses.search.label_search import search_labels


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tmp_path_factory.mktemp("imported")


@pytest.fixture
def db(built, tmp_path, subject, images, embedder):
    """A copy of a database of two layers, whose embedder reads no texts: it has no labels."""
    sl.build(built / "db", subject, images, embedder, ["first", "second"], examples=3, crop="none")
    shutil.copytree(built / "db", tmp_path / "db")
    return sl.open(tmp_path / "db", model=subject, images=images, embedder=embedder)


def clip_dissect(path, layers, seed=0):
    """Write a file as ``describe_neurons.py`` does: every unit, float32 similarities."""
    random, outputs = np.random.default_rng(seed), {"layer": [], "unit": []}
    outputs |= {"description": [], "similarity": []}
    for layer, units in layers.items():
        outputs["unit"].extend(range(units))
        outputs["layer"].extend([layer] * units)
        outputs["description"].extend(f"{layer} word {unit}" for unit in range(units))
        outputs["similarity"].extend(random.normal(size=units).astype(np.float32))
    frame = pd.DataFrame(outputs)
    frame.to_csv(path, index=False)
    return frame


def neuronpedia(path, layer, texts):
    """Write explanations as Neuronpedia exports them."""
    records = [
        {"modelId": "little", "layer": layer, "index": str(index), "description": text,
         "explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair"}
        for index, text in texts.items()
    ]  # fmt: skip
    lines = "\n".join(map(json.dumps, records)) + "\n"
    path.write_text(json.dumps(records) if path.suffix == ".json" else lines)
    return path


def test_every_unit_gets_the_description_of_clip_dissect(db, tmp_path):
    file = tmp_path / "descriptions.csv"
    given = clip_dissect(file, {"second": 10, "first": 6})
    labels = db.read_labels(file)
    assert labels.labelled == len(given) == 16
    for record in given.to_dict("records"):
        row = labels.frame[labels.frame["component"] == f"{record['layer']}:{record['unit']}"]
        assert row["label"].item() == record["description"]
        assert row["score"].item() == pytest.approx(record["similarity"], rel=1e-6)
    assert (labels.frame["sign"] == 1).all()
    assert labels.frame["confidence"].isna().all()  # nobody knows it


def test_imported_labels_are_the_names_everywhere_and_said_to_be_imported(db, tmp_path):
    clip_dissect(tmp_path / "descriptions.csv", {"first": 6})
    arguments = [
        "labels",
        "import",
        db.path,
        tmp_path / "descriptions.csv",
        "--keep",
        "clip-dissect",
    ]
    ended = CliRunner().invoke(app, [*map(str, arguments)])
    assert ended.exit_code == 0, ended.output
    assert "6 of 26 labelled, imported: CLIP-Dissect, descriptions.csv" in ended.output

    names = component_names(db)
    assert names is not None
    assert names.source == "saved:clip-dissect"
    assert names.method == "imported: CLIP-Dissect, descriptions.csv"
    assert names.shown(["first:4", "second:1"]) == ["first word 4", "second:1"]
    assert search_labels(db, ["word 3"]).hits[0].component == sl.Component("first", 3)

    from semlens.web.app import create_app

    with TestClient(create_app([db]), base_url="http://localhost") as client:
        shown = client.get("/api/v1/models/0/names").json()
        assert shown["source"] == "saved:clip-dissect"
        assert [shown["words"][i] for i in shown["label"][:6]] == [
            f"first word {unit}" for unit in range(6)
        ]


def test_labels_of_our_own_have_the_same_columns(tmp_path, subject, images, words):
    db = sl.build(tmp_path / "db", subject, images, words, ["first"], examples=3, crop="none")
    ours = db.label(["ox", "leaf"]).to_pandas()
    clip_dissect(tmp_path / "descriptions.csv", {"first": 6})
    assert list(db.read_labels(tmp_path / "descriptions.csv").to_pandas()) == list(ours)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_explanations_without_a_score_are_read_for_the_layer_that_is_named(db, tmp_path, suffix):
    texts = {0: "bright  blobs", 5: "", 3: "null"}
    file = neuronpedia(tmp_path / f"explanations{suffix}", "6-res-jb", texts)
    with pytest.raises(LayerError) as error:
        db.read_labels(file)
    assert_says(error.value, "1 is about layer '6-res-jb'", "first", "Name the layer")
    labels = db.read_labels(file, layer="first")
    assert labels.frame["label"].tolist() == ["bright blobs", "null", None]
    assert labels.frame["score"].isna().all()
    assert f"imported: Neuronpedia, explanations{suffix}" in repr(labels)
    json.dumps(plain(labels.to_json()), allow_nan=False)
    labels.save_to_database()
    names = component_names(db)
    assert names is not None
    assert names.shown(["first:0", "first:3", "first:5"]) == ["bright blobs", "null", "first:5"]


ROW = "first,0,ox,0.5\n"


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("third,0,ox,0.5\n", LayerError, ["Line 2", "'third'", "It has", "Name the layer"]),
        (ROW + "first,6,ox,0.5\n", LayerError, ["Line 3", "component 6", "0 to 5", "Check"]),
        (ROW + ROW, ConceptError, ["Line 3", "first:0 again, after Line 2", "one label", "Keep"]),
        ("first,-1,ox,0.5\n", ConceptError, ["Line 2: unit is '-1'", "whole number", "Correct"]),
        ("first,1.5,ox,0.5\n", ConceptError, ["unit is '1.5'", "whole number from 0", "Correct"]),
        ("first,1,ox,high\n", ConceptError, ["similarity is 'high'", "finite number", "Correct"]),
        ("first,1,ox,inf\n", ConceptError, ["similarity is 'inf'", "finite number", "Correct"]),
        ("first,1\n", ConceptError, ["similarity is 'None'", "finite number", "Correct"]),
        ("", ConceptError, ["has no labels", "at least one", "another file"]),
    ],
)
def test_what_does_not_fit_is_refused(db, tmp_path, text, kind, parts):
    file = tmp_path / "descriptions.csv"
    file.write_text("layer,unit,description,similarity\n" + text)
    with pytest.raises(kind) as error:
        db.read_labels(file)
    assert_says(error.value, *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.csv", b"layer,neuron,label\nfirst,0,ox\n", ["layer, neuron, label", "unit", "Rename"]),
        ("a.csv", b"", ["The first line has: nothing", "unit", "Rename"]),
        ("a.json", b'{"0": "ox"}', ["Entry 1 has: 0.", "layer, index, description", "Rename"]),
        ("a.json", b"[3]", ["Entry 1 has: int.", "layer, index, description", "Rename"]),
        ("a.json", b"[", ["cannot be read", "in UTF-8", "Check"]),
        ("a.csv", b"\xff\xfe\xfa", ["cannot be read", "in UTF-8", "Check"]),
        ("a.txt", b"ox\n", ["'a.txt' is not a file of labels", ".csv, .json", "Choose"]),
    ],
)
def test_a_file_of_another_form_is_refused(db, tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConceptError) as error:
        db.read_labels(tmp_path / name)
    assert_says(error.value, *parts)


def test_a_file_that_is_missing_or_of_several_layers_is_refused(db, tmp_path):
    with pytest.raises(ConceptError) as error:
        db.read_labels(tmp_path / "missing.csv")
    assert_says(error.value, "missing.csv", "cannot be read", "Check the path")
    clip_dissect(tmp_path / "both.csv", {"first": 6, "second": 6})
    with pytest.raises(ConceptError) as error:
        db.read_labels(tmp_path / "both.csv", layer="second")
    assert_says(error.value, "2 layers: first, second", "Expected one", "Divide the file")
