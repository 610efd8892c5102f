"""Where images have no true class, the overview has the classes that the model predicts."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from conftest import LittleNet, WordEmbedder, to_tensor, when_done
from fastapi.testclient import TestClient
from PIL import Image

import semlens as sl
from semlens.analysis.describe.predicted_classes import predict_classes, predicted_samples
from semlens.analysis.graph.relevance_trace import IMAGES
from semlens.data.image_folder import ImageFolder
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app

NAMES = ["ox", "clock", "c", "d"]
"""None of them is a folder of the images."""


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    model = SubjectModel(LittleNet(seed=3), to_tensor, "32", "python:little", NAMES)
    path = tmp_path_factory.mktemp("predicted") / "db"
    return sl.build(path, model, ImageFolder(pictures), WordEmbedder(), ["first"], examples=2)


@pytest.fixture(scope="module")
def predicted(db, pictures):
    """The classes by hand, image by image."""
    net, images = LittleNet(seed=3).eval(), ImageFolder(pictures)
    net.load_state_dict(db.model.module.state_dict())
    with torch.inference_mode():
        return [int(net(to_tensor(images.read(i))[None]).argmax()) for i in range(len(images))]


def test_predictions_are_those_of_the_model_and_are_kept(db, predicted, monkeypatch):
    table = predict_classes(db)
    assert table["predicted"].tolist() == predicted
    monkeypatch.setattr("semlens.analysis.describe.predicted_classes.logits", None)
    assert predict_classes(db).equals(table)  # the model does not run again


def test_the_page_gets_the_classes_and_their_images(db, predicted):
    with TestClient(create_app([db]), base_url="http://localhost") as client:
        base = "/api/v1/models/0"
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
