"""Images without a true class: the classes that the model predicts, and what needs true ones."""

from __future__ import annotations

import html
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, when_done
from fastapi.testclient import TestClient
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError
from semlens.lenses.correct.before_after import before_after
from semlens.lenses.describe.overview import predict_classes, predicted_samples
from semlens.lenses.graph.relevance_trace import IMAGES
from semlens.lenses.result import plain
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app

NAMES = ["ox", "clock", "c", "d"]
"""None of them is a folder of the images."""


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    model = SubjectModel(LittleNet(seed=3), to_tensor, "32", "python:little", NAMES)
    path = tmp_path_factory.mktemp("predicted") / "db"
    images = ImageFolder(pictures)
    return sl.build(path, model, images, WordEmbedder(), ["first"], examples=2, relevance=True)


@pytest.fixture(scope="module")
def predicted(db, pictures):
    """The classes by hand, image by image."""
    net, images = LittleNet(seed=3).eval(), ImageFolder(pictures)
    net.load_state_dict(db.model.module.state_dict())
    with torch.inference_mode():
        return [int(net(to_tensor(images.read(i))[None]).argmax()) for i in range(len(images))]


@pytest.mark.slow
def test_predictions_are_those_of_the_model_and_are_kept(db, predicted, monkeypatch):
    table = predict_classes(db)
    assert table["predicted"].tolist() == predicted
    monkeypatch.setattr("semlens.lenses.describe.overview.predict", None)
    assert predict_classes(db).equals(table)  # the model does not run again


def test_the_page_gets_the_classes_and_their_images(db, predicted):
    with TestClient(create_app([db]), base_url="http://localhost") as client:
        base = "/api/v1/models/0"
        assert client.get(base).json()["true_classes"] is False
        assert client.get(f"{base}/overview").json()["classes"] == []
        found = when_done(lambda: client.get(f"{base}/predicted-classes")).json()
        numbers, counts = np.unique(predicted, return_counts=True)
        assert (found["images"], found["of"]) == (len(predicted), len(predicted))
        assert {one["target"]: one["samples"] for one in found["classes"]} == dict(
            zip(numbers.tolist(), counts.tolist(), strict=True)
        )
        assert [one["samples"] for one in found["classes"]] == sorted(counts.tolist(), reverse=True)
        first = found["classes"][0]
        assert first["name"] == NAMES[first["target"]]
        strip = client.get(f"{base}/classes/{first['target']}/strip.webp", params={"count": 2})
        assert strip.status_code == 200
        assert Image.open(io.BytesIO(strip.content)).width == 96 * min(2, first["samples"])
        samples = client.get(f"{base}/classes/{first['target']}/samples", params={"k": 3}).json()
        assert samples == predicted_samples(predict_classes(db), first["target"], 3).tolist()
        graph = when_done(lambda: client.get(f"{base}/graph", params={"class": first["target"]}))
        assert graph.status_code == 200, graph.text
        assert graph.json()["images"] == min(first["samples"], IMAGES)
        missing = next(number for number in range(5) if number not in numbers)
        assert client.get(f"{base}/classes/{missing}/strip.webp").status_code == 404


def test_images_of_a_class_are_evenly_spaced(db, predicted):
    table = predict_classes(db)
    target = max(set(predicted), key=predicted.count)
    own = [sample for sample, one in enumerate(predicted) if one == target]
    chosen = predicted_samples(table, target, 3).tolist()
    assert set(chosen) <= set(own)
    assert (chosen[0], chosen[-1]) == (own[0], own[-1])
    assert predicted_samples(table, target, 999).tolist() == own


NEED_TRUE_CLASSES = {
    "model test": lambda db: db.model_test(0, artefacts=["hue"]),
    "other classes": lambda db: db.model_test(0, real=db.images, artefacts=["hue"]),
    "border swap": lambda db: db.swap(part="border"),
    "region swap": lambda db: db.swap(0, part="region"),
    "colour swap": lambda db: db.swap(part="colour"),
    "contrast": lambda db: db.contrast(errors=0),
    "repair": lambda db: before_after(db, 0, ["first:0"]),
    "evaluate": lambda db: db.evaluate(),
    "sensitivity": lambda db: db.sensitivity("hue"),
    "graph": lambda db: db.attribution_graph(0),
    "effect": lambda db: db.effect(0),
}


@pytest.mark.parametrize("name", NEED_TRUE_CLASSES)
def test_what_needs_true_classes_says_so_and_how_to_add_them(db, name):
    with pytest.raises(DataError) as error:
        NEED_TRUE_CLASSES[name](db)
    assert_says(error.value, "have no true classes", "no substitute", "targets=")


def test_true_classes_can_be_added(db, pictures, tmp_path):
    path = shutil.copytree(db.path, tmp_path / "db")
    images = ImageFolder(pictures)
    # half right and half wrong by the model's predictions
    predicted = predict_classes(db)["predicted"].tolist()
    given = [NAMES[(one + i % 2) % 4] for i, one in enumerate(predicted)]
    known = sl.build(
        path, db.model, images, WordEmbedder(), ["first"],
        examples=2, relevance=True, targets=given,
    )  # fmt: skip
    assert known.evaluate().accuracy == pytest.approx(0.5, abs=0.02)
    assert len(known.model_test(NAMES.index(given[0]), artefacts=["hue"]).sets) == 1


def test_examples_without_classes_are_not_counted_as_of_other_classes(db):
    found = db.unexpected(int(db.relevance_classes["class"][0]), threshold=9.0, minimum=0.0)
    values = json.loads(json.dumps(plain(found.to_json())))
    assert {one["of_class"] for one in values["components"]} == {None}
    files = [file for one in values["components"] for file in one["files"]]
    assert files and {file["logit"] for file in files} == {None}


@pytest.mark.slow
def test_a_report_says_that_the_model_chose_the_images(db):
    used = db.relevance_classes.iloc[0]
    concepts = sl.ConceptSet.of(["dog", "car"])
    report = db.report(int(used["class"]), concepts)
    text = re.sub(r"\s+", " ", html.unescape(report.html))
    name = NAMES[int(used["class"])]
    words = f"{used['samples']} of which the model takes for '{name}': no true classes are known"
    assert words in text
    assert "0 of them of" not in text and " examples are of " not in text
