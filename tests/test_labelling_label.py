"""Labels by any method, and by the default one."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor
from rich.console import Console

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, RecipeError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling import chosen_method
from semlens.lenses.labelling.chosen_method import choose_method
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.ranking import rank_words
from semlens.lenses.labelling.registry import make_labeller
from semlens.lenses.labelling.scored_blocks import scored_blocks
from semlens.lenses.labelling.vote import ExampleVote
from semlens.lenses.query_embedding import embed_concepts
from semlens.lenses.result import plain
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


def test_the_default_needs_a_reference_sample_that_is_large_enough(db, monkeypatch):
    assert len(db.reference) < chosen_method.SMALLEST_REFERENCE
    few, named = db.label(CONCEPTS), db.label(CONCEPTS, method="vote-examples")
    assert few.method == "vote-examples"
    assert few.to_pandas().equals(named.to_pandas())
    monkeypatch.setattr(chosen_method, "SMALLEST_REFERENCE", len(db.reference))
    many, named = db.label(CONCEPTS), db.label(CONCEPTS, method="vote")
    assert many.method == "vote"
    assert many.to_pandas().equals(named.to_pandas())
    assert not np.array_equal(many.score, few.score)


def test_one_concept_is_compared_by_alignment(db):
    one = db.label(ConceptSet.of(["dog"]))
    assert one.method == "semantic-lens"
    assert np.isnan(one.margin).all()


def test_parameters_of_a_method(db):
    labels = db.label(CONCEPTS, kappa=1.0, candidates=6)
    embedding = embed_concepts(db, CONCEPTS)
    inside = np.isin(labels.rows, db.rows("second"))
    expected = ExampleVote(kappa=1.0).scores(layer_evidence(db, "second", embedding))
    found = np.take_along_axis(expected, labels.concept[inside], 1)
    np.testing.assert_array_equal(labels.score[inside], found)
    assert "by vote-examples (kappa=1.0)" in shown(labels)
    assert plain(labels.to_json())["parameters"]["kappa"] == 1.0
    same = db.label(CONCEPTS, method=ExampleVote(kappa=1.0), candidates=6)
    assert same.to_pandas().equals(labels.to_pandas())
    assert db.label(CONCEPTS, method=ExampleVote(top=2), kappa=0.0).chosen.parameters == {
        "kappa": 0.0, "tau": 1.5, "top": 2,
    }  # fmt: skip
    with pytest.raises(RecipeError, match="no such parameter.*vote or vote-examples.*leave kappa"):
        db.label(CONCEPTS, method="csp", kappa=1.0)
    with pytest.raises(RecipeError, match="0 to 2"):
        db.label(CONCEPTS, kappa=3.0)


def analyses(db) -> set[str]:
    return {
        name for kind in ("label-scores-", "label-noise-") for name, _ in db.list_analyses(kind)
    }


def test_scores_and_thresholds_are_kept_in_the_database(db, monkeypatch):
    concepts = ConceptSet.of(["bird", "fish", "tree", "green"])
    before = analyses(db)
    labels = db.label(concepts)
    assert len(analyses(db) - before) == 4  # of two layers
    monkeypatch.setattr(ExampleVote, "_scores", None)  # nothing is computed again
    again = sl.open(db.path, embedder=db.embedder)
    assert again.label(concepts).to_pandas().equals(labels.to_pandas())
    part = again.label(concepts, layers="second", candidates=1)
    inside = np.isin(labels.rows, db.rows("second"))
    np.testing.assert_array_equal(part.score[:, 0], labels.score[inside, 0])
    with pytest.raises(TypeError):
        again.label(concepts, kappa=1.0)


class Own(ExampleVote):
    """A method that is not of semlens."""


def test_scores_of_other_code_are_not_kept(db):
    before = analyses(db)
    labels = db.label(CONCEPTS, method=Own(kappa=0.25))
    assert labels.method == "Own"
    assert analyses(db) == before


def test_components_have_the_same_label_whichever_others_are_asked_for(db):
    for method in ("vote-examples", "clip-dissect"):
        labels = db.label(CONCEPTS, method=method)
        chosen, embedding = labels.chosen, embed_concepts(db, CONCEPTS)
        for rows in (labels.rows[1::3], labels.rows[[5]]):
            place = np.searchsorted(labels.rows, rows)
            ranked = rank_words(db, rows, embedding, chosen)
            np.testing.assert_array_equal(ranked.concept[:, 0], labels.concept[place, 0])
            np.testing.assert_array_equal(ranked.thresholds, labels.thresholds[place])
            for block in scored_blocks(db, rows, embedding, chosen):
                np.testing.assert_allclose(
                    block.scores.max(1), labels.score[place][block.place, 0], atol=1e-6
                )


def test_best_words_have_distinct_names(db):
    twice = ConceptSet.join([CONCEPTS, ConceptSet.of(["dog", "cat", "red"])])
    embedding = embed_concepts(db, twice)
    rows = np.flatnonzero(db.has_examples)
    method = choose_method([db], None, len(twice))
    ranked = rank_words(db, rows, embedding, method, names=6)
    for position in range(len(rows)):
        best = ranked.best(position, embedding.names, 6)
        assert {embedding.names[index] for index, _ in best} == set(embedding.names)
        assert [score for _, score in best] == sorted((s for _, s in best), reverse=True)


def test_methods_that_do_not_fit_are_refused(db):
    with pytest.raises(RecipeError, match="no labelling method 'votes'.*vote"):
        db.label(CONCEPTS, method="votes")
    with pytest.raises(ConceptError, match="needs annotations"):
        db.label(CONCEPTS, method="invert-annotations")
