"""Labels by methods other than SemanticLens."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor
from rich.console import Console

import semlens as sl
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.labelling.database_evidence import layer_evidence
from semlens.analysis.labelling.meaningless import meaningless
from semlens.analysis.labelling.registry import make_labeller
from semlens.analysis.query_embedding import embed_concepts
from semlens.analysis.result import plain
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, RecipeError
from semlens.models.subject import SubjectModel

CONCEPTS = ConceptSet.of(["dog", "cat", "red", "blue", "grass", "text"])


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("methods") / "db"
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    layers = ["first", "second"]
    return sl.build(
        path, model, ImageFolder(pictures), WordEmbedder(), layers, examples=4, crop="activation"
    )


def shown(labels) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(labels)
    return " ".join(console.file.getvalue().split())


@pytest.mark.parametrize("method", ["vote-examples", "semantic-lens-centred", "clip-dissect"])
def test_labels_are_the_best_words_of_the_method(db, method):
    labels = db.label(CONCEPTS, method=method)
    embedding = embed_concepts(db, CONCEPTS)
    assert labels.rows.tolist() == np.flatnonzero(db.has_examples).tolist()
    for layer in ("first", "second"):
        inside = np.isin(labels.rows, db.rows(layer))
        scores = make_labeller(method).scores(
            layer_evidence(db, layer, embedding, labels.rows[inside])
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :3]
        assert labels.concept[inside].tolist() == order.tolist()
        np.testing.assert_array_equal(labels.score[inside], np.take_along_axis(scores, order, 1))
        np.testing.assert_allclose(labels.margin[inside], -np.diff(labels.score[inside])[:, 0])
    assert f"by {method}" in shown(labels)
    assert plain(labels.to_json())["method"] == method


def test_five_in_a_hundred_components_without_a_meaning_would_have_a_label(db):
    labels = db.label(CONCEPTS, method="vote-examples")
    assert len(np.unique(labels.thresholds)) == 2  # one per layer
    embedding = embed_concepts(db, CONCEPTS)
    for layer in ("first", "second"):
        inside = np.isin(labels.rows, db.rows(layer))
        evidence = layer_evidence(db, layer, embedding, labels.rows[inside])
        best = make_labeller("vote-examples").scores(meaningless(evidence, 2000, seed=7)).max(1)
        # standard deviation of a share of 5 % from 2,000, and of the threshold from 1,024: 0.8 %
        assert 0.02 < (best > labels.thresholds[inside][0]).mean() < 0.08
    fixed = db.label(CONCEPTS, method="vote-examples", threshold=0.5)
    np.testing.assert_array_equal(fixed.thresholds, np.float32(0.5))


def test_a_method_that_scores_all_components_together_labels_all_without_a_threshold(db):
    labels = db.label(CONCEPTS, method="clip-dissect")
    assert labels.labelled == len(labels)
    assert labels.to_pandas()["threshold"].isna().all()
    assert "without a threshold" in shown(labels)
    values = json.loads(json.dumps(plain(labels.to_json()), allow_nan=False))
    assert {one["threshold"] for one in values["labels"]} == {None}
    assert "without a threshold" not in shown(
        db.label(CONCEPTS, method="clip-dissect", threshold=-9.0)
    )


def test_the_default_is_semantic_lens(db):
    default, named = db.label(CONCEPTS), db.label(CONCEPTS, method="semantic-lens")
    assert default.to_pandas().equals(named.to_pandas())
    assert default.method == "semantic-lens"
    assert " by " not in shown(default)


def test_methods_that_do_not_fit_are_refused(db):
    with pytest.raises(RecipeError, match="no labelling method 'votes'.*vote"):
        db.label(CONCEPTS, method="votes")
    with pytest.raises(RecipeError, match="Choose the method 'semantic-lens-centred'"):
        db.label(CONCEPTS, method="vote-examples", centred=True)
    with pytest.raises(ConceptError, match="needs annotations"):
        db.label(CONCEPTS, method="invert-annotations")
