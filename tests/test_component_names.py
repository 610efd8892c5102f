"""One name per component: the same from Python, on the command line and in the web application."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, build_vegetables, to_tensor, when_done
from fastapi.testclient import TestClient

import semlens as sl
from semlens.lenses.labelling.component_labels import component_names, shown_names
from semlens.lenses.labelling.label import VOCABULARY
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app

CLASSES = ["vegetable", "ox", "clock", "d"]


@pytest.fixture(scope="module")
def model():
    return SubjectModel(LittleNet(seed=3), to_tensor, "32", "python:little", CLASSES)


@pytest.fixture(scope="module")
def db(tmp_path_factory, model):
    return build_vegetables(tmp_path_factory.mktemp("names"), model)


def names_of_page(db):
    with TestClient(create_app([db]), base_url="http://localhost") as client:
        names = when_done(lambda: client.get("/api/v1/models/0/names")).json()
    words = [*names["words"], None]
    return (
        names["source"],
        [words[at] for at in names["label"]],
        [words[at] for at in names["rival"]],
    )


@pytest.mark.slow
@pytest.mark.parametrize("saved", [False, True], ids=["vocabulary", "saved"])
def test_all_surfaces_have_the_same_names(db, saved):
    if saved:
        db.label(sl.ConceptSet.of(["dog", "car", "tree"])).save_to_database("mine")
    names = component_names(db)
    source, labels, rivals = names_of_page(db)
    assert names.source == source == ("saved:mine" if saved else VOCABULARY)
    assert names.frame["label"].tolist() == labels
    assert names.frame["rival"].where(names.frame["rival"].notna(), None).tolist() == rivals
    expected = db.label(sl.ConceptSet.of(["dog", "car", "tree"]) if saved else VOCABULARY)
    of_label = {name: expected.of(name) for name in db.names()}
    relevant = db.class_relevance("vegetable").frame
    assert dict(zip(relevant["component"], relevant["label"], strict=True)) == {
        name: of_label[name] for name in relevant["component"]
    }
    for node in db.attribution_graph("vegetable", minimum=0.0).nodes[1:]:
        assert {of_label[name] or "?" for name in node.components} == {node.label}


@pytest.mark.slow
def test_a_name_is_shown_with_its_doubt_or_as_the_id(db):
    names = component_names(db)
    components = db.names(np.flatnonzero(db.has_examples))
    for component, shown in zip(components, shown_names(db, components), strict=True):
        label = names.of(component)
        assert shown == component if label is None else label in shown


def test_without_texts_and_labels_there_are_no_names(tmp_path, model, images):
    made = sl.build(tmp_path / "db", model, images, ColourEmbedder(), ["first"], examples=2)
    assert component_names(made) is None
    assert shown_names(made, ["first:0"]) == ["first:0"]


@pytest.mark.slow
def test_a_report_names_a_component_by_its_label_and_says_what_it_matches(db):
    concepts = {"valid": ["dog", "fur"], "spurious": ["car", "text"]}
    audit = db.audit("vegetable", concepts, resamples=0)
    html = db.report("vegetable", concepts, audit=audit, concept_map=False, graph=False).html
    first = audit.frame.iloc[0]
    assert shown_names(db, [first["component"]])[0] in html
    if first["verdict"] in ("valid", "spurious"):
        assert f"matches &#39;{first[first['verdict'] + '_concept']}&#39;" in html
    else:
        assert "matches" in html
