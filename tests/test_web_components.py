"""The component table against plain loops, and its endpoints against the table."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, when_done
from fastapi.testclient import TestClient

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, RecipeError, RelevanceError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.component_table import COLUMNS, ComponentFilter, component_table
from semlens.lenses.labelling.component_labels import label_tables, saved_labels
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app

LAYERS = ["first", "second"]
NUMBERS = (
    "row", "examples", "firing_rate", "maximum", "clarity", "redundancy",
    "polysemanticity", "relevance_mean", "relevance_max",
)  # fmt: skip


def make(path, pictures):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    return sl.build(
        path, subject, images, WordEmbedder(), LAYERS, examples=6, relevance=True, targets=targets
    )


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    db = make(tmp_path_factory.mktemp("table") / "db", pictures)
    # half of the components get a label, and one layer none at all
    concepts = ConceptSet.of(["Dog", "frog", "car"])
    best = db.label(concepts, layers=["second"], threshold=-2.0).score[:, 0]
    db.label(concepts, layers=["second"], threshold=float(np.median(best))).save_to_database("mine")
    return db


@pytest.fixture(scope="module")
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path, expect=200, **params):
    """Ask until the work behind the answer is done."""
    found = when_done(lambda: client.get(f"/api/v1/models/0/{path}", params=params))
    assert found.status_code == expect, found.text
    return found.json() if "json" in found.headers["content-type"] else found.text


def plain_table(db, target=None):
    """The table again, one component at a time, by other ways through the library."""
    scores, shares = db.scores().to_pandas(), {}
    if target is not None:
        shares = {r["component"]: r for r in db.relevance(target).to_dict("records")}
    kept = db.load_analysis("labels-mine").to_dict("records")
    labels = {
        (r["layer"], r["index"], r["sign"]): r["label"] if isinstance(r["label"], str) else None
        for r in kept
    }
    aligned = {(r["layer"], r["index"], r["sign"]): r["confidence"] for r in kept}
    rows = []
    for row in range(db.manifest.rows):
        one, known = db.component(row), db.components.iloc[row]
        rows.append({
            "row": row, "layer": one.layer, "component": str(one),
            "label": labels.get((one.layer, one.index, one.sign)),
            "confidence": aligned.get((one.layer, one.index, one.sign), np.nan),
            "examples": int(known["examples"]), "firing_rate": float(known["firing_rate"]),
            "maximum": float(known["maximum"]),
            **{m: float(scores[m][row]) for m in ("clarity", "redundancy", "polysemanticity")},
            "relevance_mean": shares.get(row, {}).get("mean", np.nan),
            "relevance_max": shares.get(row, {}).get("max", np.nan),
        })  # fmt: skip
    return rows


def whole(db, target=None):
    return component_table(db, db.scores().frame, saved_labels(db), target)


@pytest.mark.parametrize("target", [None, 1])
def test_table_is_what_the_database_says_of_each_component(db, target):
    table = whole(db, target)
    assert tuple(table.columns) == COLUMNS
    for got, expected in zip(table.to_dict("records"), plain_table(db, target), strict=True):
        for column in NUMBERS:
            assert got[column] == pytest.approx(expected[column], abs=1e-6, nan_ok=True), column
        for column in ("layer", "component", "label"):
            assert got[column] == expected[column]
    assert db.manifest.layers[1].rows == 20  # both signs, so that the names of both are told
    assert table["component"].iloc[-1] == "second:-9"
    assert table["label"].isna().sum() > 6
    assert table["label"].notna().sum() > 3


def key_of(record, column):
    value = record[column]
    if column == "layer":
        return LAYERS.index(value)
    if column == "component":
        return record["row"]
    return value.casefold() if isinstance(value, str) else value


def unknown(value):
    return value is None or (isinstance(value, float) and np.isnan(value))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("descending", [False, True])
def test_order_is_stable_and_ends_with_what_is_not_known(db, column, descending):
    table = whole(db, 1)
    records = table.to_dict("records")
    known = [r for r in records if not unknown(key_of(r, column))]
    # an insertion sort, one by one: equal ones never pass each other
    order = []
    for record in known:
        place = len(order)
        mine = key_of(record, column)
        while place and (
            key_of(order[place - 1], column) < mine
            if descending
            else key_of(order[place - 1], column) > mine
        ):
            place -= 1
        order.insert(place, record)
    expected = [r["row"] for r in order]
    expected += [r["row"] for r in records if unknown(key_of(r, column))]
    got = ComponentFilter(sort=column, descending=descending).select(table)
    assert got.tolist() == expected
    assert sorted(got.tolist()) == list(range(len(table)))


def test_filters_choose_by_layer_text_and_measure(db):
    table = whole(db)
    records = table.to_dict("records")

    def rows(**choice):
        return ComponentFilter(**choice).select(table).tolist()

    assert rows(layers=["second"]) == [r["row"] for r in records if r["layer"] == "second"]
    assert rows(layers=[]) == []
    for text in ("dOG", "second:-", "first:1", " car "):
        wanted = text.strip().lower()
        expected = [
            r["row"]
            for r in records
            if wanted in r["component"].lower() or wanted in (r["label"] or "").lower()
        ]
        assert rows(text=text) == expected
        assert expected
    assert rows(text="(.*") == []  # a text, no pattern
    low, high = np.nanquantile(table["clarity"], [0.3, 0.7])
    found = rows(measure="clarity", low=low, high=high)
    assert found == [r["row"] for r in records if low <= r["clarity"] < high]
    assert 0 < len(found) < len(table)
    both = rows(measure="clarity", low=low, layers=["second"], sort="clarity", descending=True)
    values = [records[row]["clarity"] for row in both]
    assert values == sorted(values, reverse=True)
    assert all(records[row]["layer"] == "second" for row in both)


def test_ties_and_infinities_stay_in_row_order():
    table = pd.DataFrame({column: [0.0] * 5 for column in COLUMNS})
    table["row"] = range(5)
    table["clarity"] = [np.nan, 1, -np.inf, 1, np.inf]
    assert ComponentFilter(sort="clarity").select(table).tolist() == [2, 1, 3, 4, 0]
    assert ComponentFilter(sort="clarity", descending=True).select(table).tolist() == [
        4,
        1,
        3,
        2,
        0,
    ]


def test_without_labels_and_measures_there_is_still_a_table(db):
    table = component_table(db)
    assert table[["label", "clarity", "relevance_max"]].isna().all(axis=None)
    for column in ("label", "clarity", "relevance_max"):
        assert ComponentFilter(sort=column, descending=True).select(table).tolist() == list(
            range(26)
        )
    assert ComponentFilter(text="first").select(table).tolist() == list(range(6))
    assert ComponentFilter(measure="clarity").select(table).tolist() == []


def test_wrong_columns_are_refused_by_name(db):
    table = whole(db)
    with pytest.raises(RecipeError) as error:
        ComponentFilter(sort="clearity").select(table)
    assert_says(error.value, "Unknown column 'clearity'", "firing_rate", "such as 'clarity'")
    with pytest.raises(RecipeError) as error:
        ComponentFilter(measure="maximum").select(table)
    assert_says(error.value, "Unknown measure 'maximum'", "redundancy", "Choose")
    with pytest.raises(RelevanceError) as error:
        component_table(db, target=2)
    assert_says(error.value, "class 2", "It has 3 classes", "Choose")


# -- kept labels --------------------------------------------------------------------------------


@pytest.mark.slow
def test_kept_labels_are_by_row_and_the_newest(tmp_path, pictures):
    db = make(tmp_path / "db", pictures)
    assert saved_labels(db) is None
    assert label_tables(db) == []
    first = db.label(ConceptSet.of(["dog", "car"]), threshold=-2.0)
    first.save_to_database("one")
    later = db.label(ConceptSet.of(["tree"]), layers=["first"], threshold=-2.0)
    path = later.save_to_database("two")
    made = path.stat().st_mtime + 10
    import os

    os.utime(path, (made, made))
    tables = label_tables(db)
    assert [(t.name, t.components, t.labelled) for t in tables] == [
        ("two", 6, 6),
        ("one", int(db.has_examples.sum()), int(db.has_examples.sum())),
    ]
    newest = saved_labels(db)
    assert newest["label"].tolist() == [*later.names, *[None] * 20]
    assert {name.removeprefix("mixed: ") for name in later.names} <= {"tree", "mixed"}
    assert np.isnan(newest["score"][6:]).all()
    named = saved_labels(db, "one")
    for row in np.flatnonzero(db.has_examples):
        assert named["label"][row] == first.of(db.component(int(row)))
    with pytest.raises(ConceptError) as error:
        saved_labels(db, "three")
    assert_says(error.value, "no saved labels 'three'", "two", "semlens label")
    # of another build they say nothing
    (db.path / "manifest.json").write_text((db.path / "manifest.json").read_text() + " ")
    assert label_tables(sl.open(db.path)) == []


# -- over HTTP ----------------------------------------------------------------------------------


def measured(client):
    """Wait for the measures, so that pages hold them."""
    return fetch(client, "scores")


def test_pages_join_to_the_whole_table(client, db):
    measured(client)
    params = {"sort": "relevance_mean", "descending": True, "class": 1, "k": 7}
    rows, cursor = [], 0
    while cursor is not None:
        page = fetch(client, "components", cursor=cursor, **params)
        assert page["total"] == page["components"] == 26
        assert page["labels"] == "saved:mine"
        assert page["relevance"] == "b"
        assert page["pending_scores"] is None
        rows += page["rows"]
        cursor = page["cursor"]
    table = whole(db, 1)
    expected = table.iloc[
        ComponentFilter(sort="relevance_mean", descending=True).select(table)
    ].to_dict("records")
    assert [row["row"] for row in rows] == [record["row"] for record in expected]
    for row, record in zip(rows, expected, strict=True):
        assert row["layer"] == record["layer"]
        assert row["component"] == record["component"]
        assert db.row(sl.Component.parse(row["component"])) == row["row"]
        for column in NUMBERS:
            known = not unknown(record[column])
            assert row[column] == (pytest.approx(record[column], abs=1e-6) if known else None)


def test_page_filters_and_refusals(client):
    measured(client)
    page = fetch(client, "components", layer="second", text="-", measure="clarity", low=-1, high=1)
    assert page["total"] == len(page["rows"]) == 10
    assert all(row["component"].startswith("second:-") for row in page["rows"])
    assert page["cursor"] is None
    assert fetch(client, "components", cursor=99)["rows"] == []
    refused = fetch(client, "components", expect=400, sort="best")
    assert refused["kind"] == "RecipeError"
    assert "relevance_mean" in refused["expected"]
    assert fetch(client, "components", expect=404, layer="third")["kind"] == "LayerError"
    assert fetch(client, "components", expect=400, **{"class": 2})["kind"] == "RelevanceError"
    assert "k" in fetch(client, "components", expect=422, k=5000)["value"]


def test_file_is_the_table_as_asked_for(client, db):
    text = fetch(client, "components.csv", sort="clarity", descending=True, layer="second")
    got = pd.read_csv(io.StringIO(text))
    table = whole(db)
    expected = table.iloc[
        ComponentFilter(sort="clarity", descending=True, layers=["second"]).select(table)
    ].reset_index(drop=True)
    assert tuple(got.columns) == COLUMNS
    assert got["component"].tolist() == expected["component"].tolist()
    assert got["label"].fillna("").tolist() == expected["label"].fillna("").tolist()
    for column in NUMBERS:
        assert np.allclose(got[column], expected[column], equal_nan=True), column
    empty = fetch(client, "components.csv", text="nothing is called so")
    assert empty.strip() == ",".join(COLUMNS)


def post(client, expect=200, **body):
    found = when_done(lambda: client.post("/api/v1/models/0/labels", json=body))
    assert found.status_code == expect, found.text
    return found.json()


@pytest.mark.slow
def test_labelling_with_the_mouse(tmp_path, pictures):
    db = make(tmp_path / "db", pictures)
    client = TestClient(create_app([db]), base_url="http://localhost")
    before = fetch(client, "labels")
    assert before["tables"] == []
    assert {"paper-vocabulary", "classes", "custom"} <= set(before["sets"])
    made = post(client, concepts="custom", texts=["dog", " dog ", "car"], threshold=-2.0)
    expected = db.label(ConceptSet.of(["dog", "car"]), threshold=-2.0)
    assert (made["name"], made["components"]) == ("custom", len(expected))
    page = fetch(client, "components")
    assert page["labels"] == "saved:custom"
    for row in page["rows"]:
        assert row["label"] == expected.of(sl.Component.parse(row["component"]))
    assert [table["name"] for table in fetch(client, "labels")["tables"]] == ["custom"]
    post(client, concepts="custom", texts=["=1+1"], threshold=-2.0)
    table = pd.read_csv(io.StringIO(fetch(client, "components.csv")))
    said = set(table["label"].dropna())
    assert "'=1+1" in said and said <= {"'=1+1", "mixed: =1+1", "mixed"}  # no spreadsheet runs it
    # another threshold is another answer, and the newest labels are those that are shown
    assert post(client, concepts="custom", texts=["dog"], threshold=2)["labelled"] == 0
    assert {row["label"] for row in fetch(client, "components")["rows"]} == {None}
    classes = post(client, concepts="classes", threshold=-2.0)
    assert classes["name"] == "classes"
    shown = {row["label"] for row in fetch(client, "components")["rows"]} - {None}
    said = {word for text in shown for word in text.removeprefix("mixed: ").split(", ")}
    assert said <= {*"abcd", "mixed"}


def test_labelling_refuses_files_and_nothing(client, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('concepts = ["dog"]')
    refused = post(client, expect=400, concepts=str(file))
    assert "Unknown concept set" in refused["value"]
    assert "paper-ox" in post(client, expect=400, concepts="paper-oxen")["expected"]
    assert "No concepts" in post(client, expect=400, concepts="custom", texts=[" "])["value"]
    assert "threshold" in post(client, expect=422, threshold="high")["value"]
