"""Accuracy against counting by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import LittleNet, assert_says, to_tensor, write_pictures
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError
from semlens.models.subject import SubjectModel


@pytest.fixture
def model():
    return SubjectModel(LittleNet(), to_tensor, "32", "python:little", ["class0", "class1", *"cd"])


@pytest.fixture
def db(tmp_path, model, words):
    folder = write_pictures(tmp_path / "pictures", 12, classes=3)
    (folder / "class0" / "003.png").write_bytes(b"not an image")
    return sl.build(tmp_path / "db", model, ImageFolder(folder), words, ["second"], examples=2)


def answers(model, db, samples):
    batch = torch.stack([to_tensor(db.images.read(i)) for i in samples])
    with torch.no_grad():
        return model.module(batch).argmax(1).numpy()


def test_a_database_is_evaluated_on_its_known_classes(tmp_path, model, db):
    paths = db.samples["path"].tolist()
    mine = [i for i, path in enumerate(paths) if "class2" not in path and "003" not in path]
    right = np.array([int("class1" in paths[i]) for i in mine])
    found = db.evaluate(batch_size=5)  # what cannot be read is left out
    assert found.samples == len(mine) == 7
    np.testing.assert_array_equal(found.targets, right)
    np.testing.assert_array_equal(found.predictions, answers(model, db, mine))
    assert found.accuracy == (found.predictions == right).mean()
    frame = found.to_pandas()
    assert frame["class"].tolist() == ["class0", "class1"]
    assert frame["samples"].tolist() == [3, 4]
    assert frame["recall"].tolist() == [(found.predictions[right == c] == c).mean() for c in (0, 1)]
    some = db.evaluate(samples=mine[:2])
    np.testing.assert_array_equal(some.predictions, found.predictions[:2])
    for end in (".png", ".csv", ".json"):
        found.save(tmp_path / f"evaluation{end}")
    assert Image.open(tmp_path / "evaluation.png").width > 500
    assert json.loads((tmp_path / "evaluation.json").read_text())["accuracy"] == found.accuracy
    assert f"Accuracy {found.accuracy:.3f} on 7 images" in repr(found)
    elsewhere = db.evaluate(images=tmp_path / "pictures", samples=mine)
    assert elsewhere.to_json() == found.to_json()
    by_name = sl.evaluate_model(model, db.images, samples=mine)
    assert by_name.to_json() == found.to_json()


@pytest.mark.slow
def test_pruned_components_count(model, db):
    with sl.pruned(model, [sl.Component("second", i) for i in range(10)]):
        found = db.evaluate()
    assert set(found.predictions) == {int(model.module.head.bias.argmax())}


def test_images_without_a_known_class_are_refused(db):
    unknown = [i for i, path in enumerate(db.samples["path"]) if "class2" in path]
    with pytest.raises(DataError) as error:
        db.evaluate(samples=unknown)
    assert_says(error.value, "No image of", "has a class")
