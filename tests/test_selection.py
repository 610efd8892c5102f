"""Selections on a map: counts by hand, kept labels before those of places, and refusals."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor

import semlens as sl
from semlens.draw.map_colours import Scale
from semlens.errors import LayerError, RecipeError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.concept_map import has_layout
from semlens.lenses.describe.map_selection import component_labels, select

CONCEPTS = ConceptSet.of(["dog", "green frog", "car", "tree", "sea"])
ROWS = [14, 2, 9, 3, 3, 15, 7]


@pytest.fixture(scope="module")
def base(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("selection") / "one.semlens"
    net = sl.SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    sl.build(path, net, sl.ImageFolder(pictures), WordEmbedder(), ["first", "second"], examples=6)
    return path


@pytest.fixture
def db(base, tmp_path, words):
    return sl.open(shutil.copytree(base, tmp_path / "one.semlens"), embedder=words)


@pytest.fixture
def concept_map(db):
    return db.concept_map(concepts=CONCEPTS, threshold=-2.0)


def test_a_selection_lists_its_components_in_the_order_of_the_map(db, concept_map):
    frame = select(concept_map, ROWS).to_pandas()
    assert frame["row"].tolist() == sorted(set(ROWS))
    assert frame["component"].tolist() == [str(db.component(row)) for row in sorted(set(ROWS))]
    of_map = concept_map.frame.set_index("component")
    for record in frame.to_dict("records"):
        mine = of_map.loc[record["component"]]
        assert record["place"] == mine["place"]


def check_counts(table, by, mine, everyone):
    """Compare a table of counts with one made by counting on fingers."""
    counted, of = Counter(filter(None, mine)), Counter(filter(None, everyone))
    assert dict(zip(table[by], table["count"], strict=True)) == counted
    for record in table.to_dict("records"):
        assert record["share"] == pytest.approx(counted[record[by]] / len(mine), abs=1e-12)
        assert record["total"] == of[record[by]]


def test_without_kept_labels_those_of_places_are_counted(db, concept_map):
    chosen = select(concept_map, ROWS)
    assert chosen.source == "places"
    everyone = dict(
        zip(concept_map.frame["component"], concept_map.frame["place_label"], strict=True)
    )
    mine = [everyone[str(db.component(row))] for row in set(ROWS)]
    check_counts(chosen.labels, "label", mine, everyone.values())
    assert chosen.unlabelled == 0
    layers = [name.split(":")[0] for name in everyone]
    part = [db.component(row).layer for row in set(ROWS)]
    check_counts(chosen.layers, "layer", part, layers)
    assert chosen.layers["layer"].tolist() == ["first", "second"]


def test_kept_labels_are_counted_the_most_frequent_first(db, concept_map):
    each = [(None, "sea", "car", "sea", "a b", "car")[i % 6] for i in range(len(concept_map))]
    kept = db.label(CONCEPTS).to_pandas().assign(label=each)
    db.save_analysis("labels-default", kept.sample(frac=1, random_state=0))
    chosen = select(concept_map, np.flatnonzero(db.has_examples).tolist())
    assert chosen.source == "labels-default"
    assert chosen.frame["label"].where(chosen.frame["label"].notna(), None).tolist() == each
    assert 0 < chosen.unlabelled == each.count(None) < len(each)
    check_counts(chosen.labels, "label", each, each)
    order = sorted(chosen.labels.to_dict("records"), key=lambda r: (-r["count"], r["label"]))
    assert chosen.labels["label"].tolist() == [record["label"] for record in order]


def test_components_whose_layer_was_not_labelled_have_no_label(db, concept_map):
    labels = db.label(CONCEPTS, layers=["second"], threshold=-2.0)
    labels.save_to_database()
    names, source = component_labels(concept_map)
    assert source == "labels-default"
    first = concept_map.frame["layer"] == "first"
    assert all((name is None) == is_first for name, is_first in zip(names, first, strict=True))
    assert names[-1] == labels.label(len(labels) - 1)


def test_a_selection_can_be_kept_and_drawn(concept_map, tmp_path):
    chosen = select(concept_map, ROWS)
    chosen.save(tmp_path / "a.csv")
    again = pd.read_csv(tmp_path / "a.csv")
    assert again["row"].tolist() == chosen.frame["row"].tolist()
    chosen.save(tmp_path / "a.json")
    plain = json.loads((tmp_path / "a.json").read_text())
    assert plain["count"] == len(chosen) == len(plain["components"])
    axes = chosen.plot().axes[0]
    assert axes.get_title(loc="left").startswith(f"{len(chosen)} of {len(concept_map)}")
    assert f"{len(chosen)} components, 0 without a label (places)" in repr(chosen)


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ("No component is selected", "one or more rows")),
        ([3, 999], ("Row 999", "from 0 to")),
        ([-1], ("Row -1", "examples")),
    ],
)
def test_rows_that_are_not_on_the_map_are_refused(concept_map, rows, parts):
    with pytest.raises(LayerError) as error:
        select(concept_map, rows)
    assert_says(error.value, *parts)


def test_a_component_without_examples_is_not_on_the_map(db, concept_map):
    silent = np.flatnonzero(~db.has_examples)
    part = db.concept_map(layers=["second"], concepts=None)
    with pytest.raises(LayerError, match=r"Row 0 is not on the map"):
        select(part, [0])
    for row in silent:
        with pytest.raises(LayerError, match=f"Row {row} is not on the map"):
            select(concept_map, [int(row)])


def test_maps_of_several_databases_are_refused(db, base, words):
    both = db.concept_map(sl.open(base, embedder=words), concepts=None)
    with pytest.raises(RecipeError) as error:
        select(both, [1])
    assert_says(error.value, "2 databases", "Expected one", "map of each")


def test_a_map_is_laid_out_once_for_a_seed(db):
    assert not has_layout([db])
    db.concept_map(concepts=None)
    assert has_layout([db])
    assert not has_layout([db], seed=1)


def test_labels_of_another_set_leave_the_map_as_it_is(db, concept_map):
    other = ConceptSet.of(["sea", "dog"])
    again = concept_map.labelled(other, threshold=-2.0, top_labels=1)
    fresh = db.concept_map(concepts=other, threshold=-2.0, top_labels=1)
    pd.testing.assert_frame_equal(again.places, fresh.places)
    pd.testing.assert_frame_equal(again.clusters, fresh.clusters)
    pd.testing.assert_frame_equal(again.frame, fresh.frame)
    assert set(again.labelled(None).frame["place_label"]) == {None}
    pd.testing.assert_series_equal(concept_map.frame["x"], again.frame["x"])


@pytest.mark.parametrize(
    ("values", "signed", "limits"),
    [
        ([0.2, np.nan, 0.9], False, (0.2, 0.9)),
        ([-0.5, 0.1, np.nan], True, (-0.5, 0.5)),
        ([np.nan, np.nan], False, (0.0, 0.0)),
    ],
)
def test_the_ends_of_a_scale(values, signed, limits):
    scale = Scale("x", np.asarray(values, np.float32), signed=signed)
    assert scale.limits == pytest.approx(limits)
