"""Components that are relevant for a class, against plain loops over the database's table."""

from __future__ import annotations

import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor

import semlens as sl
from semlens.errors import LayerError, RelevanceError
from semlens.lenses.class_relevance import MINIMUM, relevant_rows
from semlens.lenses.classes import find_class
from semlens.models.subject import SubjectModel


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = sl.ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    path = tmp_path_factory.mktemp("relevant") / "db"
    return sl.build(path, subject, images, WordEmbedder(), ["first", "second"], examples=3,
                    relevance=True, targets=targets)  # fmt: skip


@pytest.mark.parametrize("minimum", [0.0, MINIMUM, 0.08])
@pytest.mark.parametrize(
    ("layers", "names"),
    [(None, ["first", "second"]), ("second", ["second"]), (["second", "first"],) * 2],
)
def test_those_that_reach_the_minimum_the_largest_mean_first(db, minimum, layers, names):
    expected = [
        record
        for record in db.relevance(1).to_dict("records")
        if record["max"] >= minimum and db.component(record["component"]).layer in names
    ]
    expected.sort(key=lambda record: (-record["mean"], record["component"]))
    found = relevant_rows(db, find_class(db, "b"), layers, minimum)
    assert found.columns.tolist() == ["component", "layer", "mean", "max"]
    assert found["component"].tolist() == [record["component"] for record in expected]
    assert found["mean"].tolist() == [record["mean"] for record in expected]
    assert found["max"].tolist() == [record["max"] for record in expected]
    assert found["layer"].tolist() == [db.component(row).layer for row in found["component"]]


def test_nobody_relevant_is_refused_or_an_empty_table(db):
    with pytest.raises(RelevanceError) as error:
        relevant_rows(db, 1, minimum=1.0)
    assert_says(error.value, "reaches 100 %", "class 'b'", "most relevant component has", "Lower")
    assert relevant_rows(db, 1, minimum=1.0, empty_ok=True).empty


def test_unknown_classes_and_layers_are_refused(db):
    with pytest.raises(RelevanceError, match="no relevance for class 2"):
        relevant_rows(db, find_class(db, "c"))
    with pytest.raises(RelevanceError, match="Unknown class 'x'"):
        relevant_rows(db, find_class(db, "x"))
    with pytest.raises(LayerError):
        relevant_rows(db, 1, "thrid")
