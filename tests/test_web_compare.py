"""Two models side by side: the linked map and its pairs against a plain float64 version."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, assert_says, when_done, write_pictures
from fastapi.testclient import TestClient
from safetensors.torch import load
from test_compare import WideNet, make

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import RecipeError, StaleError
from semlens.lenses.compare.joint_map import joint_map
from semlens.web.app import create_app


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    images = ImageFolder(write_pictures(folder / "images", 24))
    embedder = WordEmbedder()
    one = sl.build(
        folder / "one", make(LittleNet(), "one"), images, embedder, ["first", "second"], examples=5
    )
    two = sl.build(folder / "two", make(WideNet(), "two"), images, embedder, ["second"], examples=5)
    return one, two


@pytest.fixture(scope="module")
def client(pair):
    return TestClient(create_app(list(pair)), base_url="http://localhost")


def fetch(client, path):
    """Ask until the work is done, as the page does."""
    return when_done(lambda: client.get(f"/api/v1/{path}"))


def plain(one, two):
    """Cosines of all pairs of living components in float64, and the rows of both."""
    units = []
    rows = []
    for db in (one, two):
        mine = np.flatnonzero(db.has_examples)
        theta = db.theta[mine].astype(np.float64)
        units.append(theta / np.linalg.norm(theta, axis=1, keepdims=True))
        rows.append(mine)
    return units, rows


@pytest.mark.slow
def test_each_component_is_linked_to_its_nearest(pair):
    units, rows = plain(*pair)
    cosine = units[0] @ units[1].T
    found = joint_map(*pair)
    for side, values, mine, other, own in (
        (found.first, cosine, rows[0], rows[1], units[0]),
        (found.second, cosine.T, rows[1], rows[0], units[1]),
    ):
        np.testing.assert_array_equal(side.rows, mine)
        np.testing.assert_allclose(side.similarity, values.max(1), atol=1e-6)
        near = values[np.arange(len(mine)), np.searchsorted(other, side.nearest)]
        np.testing.assert_allclose(near, values.max(1), atol=1e-6)
        inside = own @ own.T
        np.fill_diagonal(inside, -np.inf)
        threshold = np.quantile(inside.max(1), 0.05)
        assert side.threshold == pytest.approx(threshold, abs=1e-6)
        clear = np.abs(values.max(1) - threshold) > 1e-6
        np.testing.assert_array_equal(side.unmatched[clear], (values.max(1) < threshold)[clear])
        assert side.set_similarity == pytest.approx(values.max(1).mean(), abs=1e-6)
        assert side.positions.shape == (len(mine), 2)
        assert np.isfinite(side.positions).all()
    mutual = [cosine[:, j].argmax() == i for i, j in enumerate(cosine.argmax(1))]
    np.testing.assert_array_equal(found.first.mutual, mutual)


@pytest.mark.slow
def test_pairs_are_sorted_and_of_their_kind(pair):
    found = joint_map(*pair)
    matched = found.pairs("matched")
    assert len(matched) == found.first.mutual.sum() == found.second.mutual.sum()
    assert (np.diff(matched["similarity"]) <= 0).all()
    for kind, side in (("only_first", found.first), ("only_second", found.second)):
        alone = found.pairs(kind)
        assert len(alone) == side.unmatched.sum()
        assert (alone["similarity"] < side.threshold).all()
        assert (np.diff(alone["similarity"]) >= 0).all()
    with pytest.raises(RecipeError) as caught:
        found.pairs("both")
    assert_says(caught.value, "'both'", "matched", "Choose one")


def test_labels_kept_in_the_databases_are_told(pair):
    one, two = pair
    labels = one.label(sl.ConceptSet.of(["dog", "cat", "wheel"]), threshold=-2.0)
    labels.save_to_database("test")
    frame = joint_map(one, two).pairs("matched")
    known = dict(zip(labels.rows, labels.to_pandas()["label"], strict=True))
    assert list(frame["label"]) == [
        known[one.row(sl.Component.parse(name))] for name in frame["component"]
    ]
    assert frame["other_label"].isna().all()


def test_the_server_says_the_same(pair, client):
    found = joint_map(*pair)
    answer = fetch(client, "compare?a=0&b=1").json()
    assert [m["name"] for m in answer["models"]] == ["one", "two"]
    assert answer["matched"] == found.first.mutual.sum()
    assert answer["models"][1]["unmatched"] == found.second.unmatched.sum()
    assert answer["models"][0]["similarity"] == pytest.approx(found.first.set_similarity)
    for measure in answer["measures"]:
        for db, counts in zip(pair, [one["counts"] for one in measure["layers"]], strict=True):
            values = db.scores().frame[measure["measure"]].dropna()
            assert sum(counts) == len(values)
            assert len(counts) == len(measure["edges"]) - 1

    tensors = load(fetch(client, "compare/points?a=0&b=1").content)
    np.testing.assert_array_equal(tensors["a_row"], found.first.rows)
    np.testing.assert_array_equal(tensors["b_nearest"], found.second.nearest)
    np.testing.assert_array_equal(
        tensors["a_flags"], found.first.unmatched + 2 * found.first.mutual.astype(int)
    )
    np.testing.assert_allclose(tensors["b_x"], found.second.positions[:, 0])

    page = fetch(client, "compare/pairs?a=0&b=1&k=2").json()
    rest = fetch(client, f"compare/pairs?a=0&b=1&k=500&cursor={page['cursor']}").json()
    rows = [one["component"] for one in page["pairs"] + rest["pairs"]]
    assert rows == list(found.pairs("matched")["component"])
    assert rest["cursor"] is None
    first = found.first.rows[
        found.first.mutual
        & (found.first.similarity == max(found.first.similarity[found.first.mutual]))
    ][0]
    assert rows[0] == str(pair[0].component(int(first)))
    lines = fetch(client, "compare/pairs.csv?a=0&b=1&kind=only_second").text.splitlines()
    assert len(lines) == 1 + found.second.unmatched.sum()


def test_odd_names_and_labels_are_told_and_taken_away(pair, tmp_path):
    one, two = (
        sl.open(shutil.copytree(db.path, tmp_path / name), embedder=WordEmbedder())
        for db, name in zip(pair, ('a"b\r\nX-Evil: 1', "größer 猫"), strict=True)
    )
    labels = two.label(sl.ConceptSet.of(["=cat()"]), threshold=-2.0).to_pandas()
    assert set(labels["label"]) <= {"=cat()", "mixed: =cat()", "mixed"}
    labels["label"] = "=cat()"
    frame = labels.assign(label=labels["label"].where(np.arange(len(labels)) % 2 == 0, None))
    two.save_analysis("labels-odd", frame)
    client = TestClient(create_app([one, two]), base_url="http://localhost")
    known = dict(zip(two.names(), frame["label"], strict=True))
    for kind, column, theirs in (
        ("matched", "other_label", "other"),
        ("only_second", "label", "component"),
    ):
        page = fetch(client, f"compare/pairs?a=0&b=1&kind={kind}&k=500")
        assert page.status_code == 200
        pairs = page.json()["pairs"]
        for each in pairs:
            label = known[each[theirs]]
            assert each[column] == (label if isinstance(label, str) else None)
        file = fetch(client, f"compare/pairs.csv?a=0&b=1&kind={kind}")
        assert "x-evil" not in file.headers
        name = f"a_b__X-Evil__1-gr__er__-{kind}.csv"
        assert file.headers["content-disposition"] == f'attachment; filename="{name}"'
        table = pd.read_csv(io.StringIO(file.text))
        assert table[theirs].tolist() == [each[theirs] for each in pairs]
        assert set(table[column].dropna()) <= {"'=cat()"}
    assert None in {each["other_label"] for each in ask_pairs(client)}


def ask_pairs(client):
    return [
        each
        for a, b in ((0, 1), (1, 0))
        for kind in ("matched", "only_first", "only_second")
        for each in fetch(client, f"compare/pairs?a={a}&b={b}&kind={kind}&k=500").json()["pairs"]
    ]


def test_what_cannot_be_compared_is_refused(pair, client, tmp_path):
    assert fetch(client, "compare?a=0&b=7").status_code == 404
    assert fetch(client, "compare?a=0").status_code == 422
    same = fetch(client, "compare?a=1&b=1")
    assert same.status_code == 400
    assert "twice" in same.json()["value"]
    images = ImageFolder(write_pictures(tmp_path / "images", 8))
    other = sl.build(
        tmp_path / "other",
        make(WideNet(), "two"),
        images,
        ColourEmbedder(4),
        ["second"],
        examples=2,
    )
    with pytest.raises(StaleError):
        joint_map(pair[0], other)
    mixed = TestClient(create_app([pair[0], other]), base_url="http://localhost")
    refused = fetch(mixed, "compare/points?a=0&b=1")
    assert refused.status_code == 409
    assert "embedded by" in refused.json()["value"]
