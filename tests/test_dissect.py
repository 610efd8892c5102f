"""Dissection against plain counts, on planted components and on real labels."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from conftest import (
    ColourEmbedder,
    LittleNet,
    WordEmbedder,
    assert_says,
    to_tensor,
    write_pictures,
)
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import EmbedderError, RecipeError, RelevanceError, StaleError
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.describe.category_nodes import concept_nodes, recurring
from semlens.lenses.describe.dissect import dissect
from semlens.lenses.query_embedding import embed_concepts
from semlens.models.subject import SubjectModel

LAYERS = ["first", "second"]
NESTED = ConceptSet(
    (
        Concept("horns", ("Physical", "Body parts", "Head")),
        Concept("eyes", ("Physical", "Body parts", "Head")),
        Concept("legs", ("Physical", "Body parts")),
        Concept("brown", ("Physical",)),
        Concept("zebu", ("Breeds",)),
        Concept("angus", ("Breeds",)),
        Concept("horns", ("Instruments",)),
        Concept("ploughing", ("Work",)),
    ),
    "nested",
)


def make(seed):
    return SubjectModel(
        LittleNet(seed), to_tensor, "32 bilinear", f"python:little{seed}", list("abcd")
    )


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    root = tmp_path_factory.mktemp("databases")
    images = ImageFolder(write_pictures(root / "pictures", 14))
    logits = ["a" if i % 2 else "b" for i in range(14)]
    return [
        sl.build(
            root / f"m{seed}.semlens", make(seed), images, WordEmbedder(), LAYERS,
            examples=4, relevance=seed == 0, targets=logits,
        )
        for seed in (0, 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def planted(databases):
    """The first database with vectors of our own: each component means a chosen concept.

    horns 3, legs 1 and zebu 2 in layer 'first'; in 'second' brown 4, horns 1 and, on every
    other component, the opposite of the null vector and all concepts: no label.
    """
    db = sl.open(databases[0].path, embedder=WordEmbedder())
    probe = embed_concepts(db, NESTED)
    vectors = probe.vectors / np.linalg.norm(probe.vectors, axis=1, keepdims=True)
    names = [concept.name for concept in NESTED.concepts]
    theta = np.tile(-vectors[:6].mean(0) + 3 * probe.null, (len(db.components), 1))
    plan = {
        "first": ["horns"] * 3 + ["legs"] + ["zebu"] * 2,
        "second": ["brown"] * 4 + ["horns"],
    }
    for layer, concepts in plan.items():
        for row, name in zip(db.rows([layer]), concepts, strict=False):
            theta[row] = vectors[names.index(name)]
    db.theta = theta.astype(np.float32)
    assert db.has_examples.all()
    return db


def row_of(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


@pytest.mark.slow
def test_planted_components_are_counted_at_every_level(planted):
    found = planted.dissect(concepts=NESTED, method="semantic-lens")
    first = {"layer": "first"}
    sizes = row_of(found.sizes, layer="first")
    assert (sizes["components"], sizes["labelled"]) == (6, 6)
    second = row_of(found.sizes, layer="second")
    assert (second["components"], second["labelled"]) == (20, 5)
    for path, count, carried, concepts in (
        ("Physical", 4, 2, 4),
        ("Physical/Body parts", 4, 2, 3),
        ("Physical/Body parts/Head", 3, 1, 2),
        ("Physical/Body parts/Head/horns", 3, 1, 1),
        ("Physical/Body parts/Head/eyes", 0, 0, 1),
        ("Physical/Body parts/legs", 1, 1, 1),
        ("Breeds", 2, 1, 2),
        ("Work", 0, 0, 1),
    ):
        row = row_of(found.counts, path=path, **first)
        assert (row["count"], row["carried"], row["concepts"]) == (count, carried, concepts), path
        assert row["share"] == pytest.approx(count / 6)
    total = row_of(found.totals, path="Physical")
    assert (total["count"], total["carried"], total["depth"]) == (9, 3, 1)
    assert total["share"] == pytest.approx(9 / 26)
    assert total["share_of_labelled"] == pytest.approx(9 / 11)
    top = found.top_concepts()
    assert dict(zip(top["name"], top["count"], strict=True)) == {
        "horns": 4, "brown": 4, "zebu": 2, "legs": 1,
    }  # fmt: skip


def test_gaps_are_concepts_without_a_component_and_name_the_nearest(planted):
    found = planted.dissect(concepts=NESTED, method="semantic-lens")
    assert set(found.gaps["concept"]) == {"eyes", "angus", "ploughing"}
    probe = embed_concepts(planted, NESTED)
    unit = probe.vectors / np.linalg.norm(probe.vectors, axis=1, keepdims=True)
    theta = planted.theta.astype(np.float64)
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    value = theta @ unit.T - (theta @ (probe.null / np.linalg.norm(probe.null)))[:, None]
    labels = planted.label(NESTED, method="semantic-lens")
    for gap in found.gaps.to_dict("records"):
        place = [c.name for c in NESTED.concepts].index(gap["concept"])
        nearest = int(value[:, place].argmax())
        assert gap["nearest"] == str(planted.component(nearest))
        assert gap["score"] == pytest.approx(value[nearest, place], abs=1e-5)
        # not held against examples, which are not those of the planted vectors
        word = NESTED.concepts[labels.concept[nearest, 0]].name
        assert gap["label"] == (word if labels.is_labelled[nearest] else None)
        assert gap["outdone"] == (value[nearest, place] > labels.thresholds[nearest])
        assert gap["category"] == NESTED.concepts[place].category
    assert found.gaps["score"].is_monotonic_increasing


def test_a_name_of_two_categories_counts_once_under_the_first(planted):
    found = planted.dissect(concepts=NESTED, method="semantic-lens")
    assert "Instruments" not in set(found.counts["path"])
    assert found.recurring == {"horns": ["Physical/Body parts/Head", "Instruments"]}
    top_level = found.totals[(found.totals["depth"] == 1) & ~found.totals["leaf"]]
    assert top_level["count"].sum() == found.sizes["labelled"].sum()
    assert "horns" not in set(found.gaps["concept"])
    vocabulary = recurring(ConceptSet.load("paper-vocabulary"))
    assert len(vocabulary) == 17
    assert vocabulary["horn"] == ["Objects", "Animal parts"]


def test_counts_are_those_of_the_labels(databases):
    found = dissect(databases, concepts=NESTED, confidence=0.0)
    assert found.method == "vote-examples"  # of six images
    for db, name in zip(databases, ("m0", "m1"), strict=True):
        frame = db.label(NESTED).to_pandas()
        for layer in LAYERS:
            labels = frame.loc[frame["layer"] == layer, "label"].dropna()
            here = (found.counts["database"] == name) & (found.counts["layer"] == layer)
            mine = found.counts[here & found.counts["leaf"]]
            counts = dict(zip(mine["name"], mine["count"], strict=True))
            assert {k: v for k, v in counts.items() if v} == labels.value_counts().to_dict()
    assert found.databases == ["m0", "m1"]
    one = databases[0].dissect(concepts={"Head": ["horns", "eyes"]}, layers="first")
    assert set(one.counts["layer"]) == {"first"}
    assert one.counts["path"].tolist() == ["Head", "Head/horns", "Head/eyes"]


def test_a_higher_threshold_leaves_more_gaps(databases):
    low, high = (
        databases[0].dissect(concepts=NESTED, threshold=t, confidence=0.0) for t in (-9.0, 9.0)
    )
    assert low.sizes["labelled"].sum() == low.sizes["components"].sum()
    assert high.sizes["labelled"].sum() == 0
    assert len(high.gaps) == 7
    assert not high.gaps["outdone"].any()
    assert np.isnan(high.totals["share_of_labelled"]).all()
    assert "gaps" in repr(high)
    high.plot()
    high.plot_tree()


def test_labels_that_are_likely_wrong_do_not_count(databases):
    """The labels of the question itself, of which those below a confidence are left out."""
    db, least = databases[0], 0.3
    confidence = db.label(NESTED).confidence
    assert np.isfinite(confidence).any() and (confidence < least).any()
    found = db.dissect(concepts=NESTED, confidence=least)
    frame = db.label(NESTED).to_pandas()
    named = frame["label"].notna()
    kept = frame[named & ~(frame["confidence"] < least)]
    for size in found.sizes.to_dict("records"):
        here = frame["layer"] == size["layer"]
        assert size["labelled"] == (kept["layer"] == size["layer"]).sum()
        assert size["doubtful"] == (named & here).sum() - size["labelled"]
        assert size["share"] == pytest.approx(size["labelled"] / here.sum())
    counts = kept["label"].value_counts().to_dict()
    top = found.top_concepts()
    assert dict(zip(top["name"], top["count"], strict=True)) == counts
    assert found.to_json()["confidence"] == least
    assert "30%" in repr(found)
    legend = found.plot().legends[0].get_texts()
    assert "label too unsure" in [text.get_text() for text in legend]
    every = db.dissect(concepts=NESTED, confidence=0.0)
    assert every.sizes["labelled"].sum() == named.sum()
    assert not every.sizes["doubtful"].any()


def test_only_components_that_matter_for_a_class(databases):
    db = databases[0]
    found = db.dissect(concepts=NESTED, target="a", minimum=0.08, confidence=0.0)
    table = db.relevance(0)
    rows = set(table.loc[table["max"] >= 0.08, "component"]) & set(np.flatnonzero(db.has_examples))
    assert 0 < len(rows) < len(db.components)
    assert found.sizes["components"].sum() == len(rows)
    labels = db.label(NESTED)
    named = [labels.label(i) for i, row in enumerate(labels.rows) if row in rows]
    expected = pd.Series(named, dtype=object).value_counts().to_dict()
    top = found.top_concepts()
    assert dict(zip(top["name"], top["count"], strict=True)) == expected


def test_valid_and_spurious_are_outermost_categories():
    names = [node.text for node in concept_nodes(ConceptSet.load("paper-ox")) if not node.leaf]
    assert names == ["valid", "spurious"]
    flat = concept_nodes(ConceptSet.of(["dog", "cat"]))
    assert [(node.text, node.leaf) for node in flat] == [("dog", True), ("cat", True)]


def test_categories_stay_together_whatever_the_order():
    mixed = ConceptSet(
        (Concept("a", ("X",)), Concept("b", ("Y",)), Concept("c", ("X", "Z")), Concept("d", ("X",)))
    )
    assert [node.text for node in concept_nodes(mixed)] == [
        "X", "X/a", "X/Z", "X/Z/c", "X/d", "Y", "Y/b",
    ]  # fmt: skip


def test_a_category_and_a_concept_of_one_name_are_two(databases):
    same = ConceptSet((Concept("horns", ("Head",)), Concept("Head"), Concept("eyes", ("Head",))))
    found = databases[0].dissect(concepts=same)
    head = found.totals[found.totals["path"] == "Head"]
    assert sorted(head["leaf"]) == [False, True]
    found.plot_tree()


def test_a_name_may_hold_a_slash(databases):
    concepts = ConceptSet(
        (Concept("am/fm radio", ("Devices", "Old")), Concept("either/or")), "radio"
    )
    found = databases[0].dissect(concepts=concepts, threshold=-2.0)
    assert set(found.top_concepts()["path"]) <= {"Devices/Old/am/fm radio", "either/or"}
    assert "Devices/Old/am" not in repr(found).replace("Devices/Old/am/fm", "")
    assert "Devices/Old" in repr(found)
    found.plot_tree()


def test_the_ox_tree_nests_the_concepts_of_the_graph():
    tree, graph = ConceptSet.load("ox-tree"), ConceptSet.load("paper-graph")
    assert {c.name for c in tree.concepts} == {c.name for c in graph.concepts}
    assert tree.templates == graph.templates
    horns = next(c for c in tree.concepts if c.name == "horns")
    assert horns.path == ("Physical", "Body parts", "Head")
    assert "our own" in tree.source


def test_the_result_is_text_values_plots_and_files(databases, tmp_path):
    found = dissect(databases, concepts=NESTED, depth=3, top=3)
    text = repr(found)
    for part in ("Physical", "    Head", "most frequent concepts of m0", "gaps of m1"):
        assert part in text
    found.save(tmp_path / "d.json")
    values = json.loads((tmp_path / "d.json").read_text())
    assert {row["database"] for row in values["counts"]} == {"m0", "m1"}
    assert values["recurring"] == {"horns": ["Physical/Body parts/Head", "Instruments"]}
    found.save(tmp_path / "d.csv")
    assert len(pd.read_csv(tmp_path / "d.csv")) == len(found.counts)
    assert len(found.plot().axes) == 2
    assert len(dissect(databases, concepts=ConceptSet.of(["dog", "cat"])).plot().axes) == 1
    said = [text.get_text() for text in found.plot_tree("m1").axes[0].texts]
    total = row_of(found.totals, database="m1", path="Physical")["count"]
    assert f"Physical ({total})" in said
    cut = [text.get_text() for text in found.plot_tree("m1", depth=1).axes[0].texts]
    assert len(cut) == 3
    with pytest.raises(RecipeError, match="Unknown database 'm2'"):
        found.plot_tree("m2")


def test_bad_input(databases, tmp_path):
    with pytest.raises(RelevanceError) as error:
        databases[1].dissect(concepts=NESTED, target="a")
    assert_says(error.value, "no class relevance", "--relevance")
    with pytest.raises(RecipeError, match="given twice"):
        databases[0].dissect(sl.open(databases[0].path, embedder=WordEmbedder()))
    with pytest.raises(RecipeError, match="No database"):
        sl.ConceptDatabase.dissect([])
    images = ImageFolder(write_pictures(tmp_path / "pictures", 6))
    blind = sl.build(tmp_path / "b", make(0), images, ColourEmbedder(), ["first"], examples=3)
    with pytest.raises(EmbedderError, match="images only"):
        blind.dissect(concepts=NESTED)
    other = sl.build(tmp_path / "o", make(0), images, WordEmbedder(4), ["first"], examples=3)
    with pytest.raises(StaleError, match="cannot be compared"):
        databases[0].dissect(other, concepts=NESTED)
    red = tmp_path / "red.png"
    Image.new("RGB", (20, 20), "red").save(red)
    pictured = ConceptSet((Concept("red", ("Colours",), images=(red,)),))
    found = blind.dissect(concepts=pictured, threshold=-1.0)
    assert row_of(found.totals, path="Colours")["count"] == blind.has_examples.sum()


@pytest.mark.slow
def test_on_the_command_line(tmp_path):
    images = ImageFolder(write_pictures(tmp_path / "pictures", 6))
    db = sl.build(tmp_path / "m", make(0), images, "semlens/demo", ["first"], examples=3)
    tree, plot = tmp_path / "t.png", tmp_path / "p.png"
    words = ["concepts", "dissect", str(db.path), "--concepts", "ox-tree", "--depth", "2"]
    done = CliRunner().invoke(app, [*words, "--tree", str(tree), "--save", str(plot), "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert values["concepts"] == "ox-tree"
    assert values["sizes"][0]["components"] == db.has_examples.sum()
    assert Image.open(tree).size[0] > 300
    assert Image.open(plot).size[0] > 300
    table = CliRunner().invoke(app, words)
    assert "  Body parts" in table.stdout
    wrong = CliRunner().invoke(app, [*words, "--tree", "tree.doc"])
    assert wrong.exit_code == 1
    assert "tree.doc" in wrong.stderr
