"""Comparison and drift against float64 versions of Eq. 5, on planted and real databases."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import (
    LayerError,
    RecipeError,
    RelevanceError,
    StaleError,
    StoreError,
)
from semlens.lenses.compare import nearest_components
from semlens.lenses.compare.compare import compare
from semlens.lenses.compare.component_sets import component_sets, database_names
from semlens.lenses.compare.drift import drift
from semlens.lenses.compare.labels_and_scores import assign_labels, set_scores
from semlens.lenses.compare.nearest_components import (
    PairProgress,
    nearest_among,
    nearest_between,
    nearest_between_sets,
    nearest_within_set,
)
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.labelling.chosen_method import choose_method
from semlens.lenses.query_embedding import embed_concepts
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener
from semlens.regular_files import file_digest
from semlens.store.file_names import theta_file
from semlens.store.manifest import Manifest

LAYERS = ["first", "second"]
WORDS = ConceptSet.of(["dog", "cat", "green frog", "striped zebra", "wheel"], name="words")
LEAST = 0.02
"""Score of a label: with it some components have one, and some have none."""


class WideNet(nn.Module):
    """A network of another shape: one stage of seven channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.second = nn.Conv2d(3, 7, 3, 4, 1)
        self.head = nn.Linear(7, 4)

    def forward(self, x):
        return self.head(nn.functional.relu(self.second(x)).mean((2, 3)))


def make(module, name):
    return SubjectModel(module.eval(), to_tensor, "32 bilinear", f"python:{name}", list("abcd"))


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    """Two networks of one architecture, a third of another; the first two with relevance."""
    root = tmp_path_factory.mktemp("databases")
    images = ImageFolder(write_pictures(root / "pictures", 14))
    logits = ["a" if i % 2 else "b" for i in range(14)]
    made = {}
    for name, module, layers in (
        ("one", LittleNet(0), LAYERS),
        ("two", LittleNet(1), LAYERS),
        ("wide", WideNet(), ["second"]),
    ):
        made[name] = sl.build(
            root / f"{name}.semlens", make(module, name), images, WordEmbedder(), layers,
            examples=5, relevance=name != "wide", targets=logits,
        )  # fmt: skip
    return made


def plant(database, layer, theta):
    """Put vectors of our own into a layer, as a build would have left them."""
    file = theta_file(layer)
    tensors = load_file(database.path / file)
    tensors["theta"] = torch.tensor(theta).half().reshape(tensors["theta"].shape)
    save_file(tensors, database.path / file)
    manifest = json.loads((database.path / "manifest.json").read_text())
    manifest["files"][file] = file_digest(database.path / file)
    Manifest.model_validate(manifest).save(database.path)
    return sl.open(database.path, embedder=WordEmbedder())


def copied(database, folder):
    shutil.copytree(database.path, folder)
    return sl.open(folder, embedder=WordEmbedder())


def units(database, rows):
    theta = database.theta[rows].astype(np.float64)
    return theta / np.linalg.norm(theta, axis=1, keepdims=True)


def living(database, layers=None):
    rows = database.rows(layers)
    return rows[database.has_examples[rows]]


def set_similarity(a, b):
    """Eq. 5, one component at a time, in float64."""
    return float(np.mean([max(float(x @ y) for y in b) for x in a]))


def cell(found, one, other, value="similarity"):
    return found.square(value).loc[one, other]


# -- nearest -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [3, 8, 100])
def test_nearest_both_ways_is_exact_in_any_blocks(block):
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((n, 16)).astype(np.float32) for n in (23, 17))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosine = a.astype(np.float64) @ b.astype(np.float64).T
    ahead, back = nearest_between(a, b, block=block)
    assert ahead.index.tolist() == cosine.argmax(1).tolist()
    assert back.index.tolist() == cosine.argmax(0).tolist()
    np.testing.assert_allclose(ahead.similarity, cosine.max(1), atol=1e-6)
    np.testing.assert_allclose(back.similarity, cosine.max(0), atol=1e-6)
    assert ahead.mean == pytest.approx(set_similarity(a, b), abs=1e-6)
    own = a.astype(np.float64) @ a.astype(np.float64).T
    np.fill_diagonal(own, -np.inf)
    alone = nearest_among(a, block=block)
    assert alone.index.tolist() == own.argmax(1).tolist()
    np.testing.assert_allclose(alone.similarity, own.max(1), atol=1e-6)


def test_of_equal_ones_the_first_wins_and_a_single_one_has_no_fellow():
    a = np.eye(3, dtype=np.float32)[[0, 1]]
    b = np.eye(3, dtype=np.float32)[[2, 1, 0, 0, 1]]
    for block in (1, 2, 9):
        assert nearest_between(a, b, block=block)[0].index.tolist() == [2, 1]
        assert nearest_between(b, a, block=block)[1].index.tolist() == [2, 1]
    alone = nearest_among(a[:1])
    assert alone.index.tolist() == [-1]
    assert np.isnan(alone.similarity).all()


@pytest.mark.slow
def test_progress_reaches_its_total(databases):
    seen = []
    with progress_listener(lambda *said: seen.append(said)):
        compare(list(databases.values()), centred=True, scores=False)
    seen = [said[1:] for said in seen if said[0] == "comparing components"]
    done, totals = zip(*seen, strict=True)
    assert len(set(totals)) == 1
    assert done[-1] == totals[0]
    assert list(done) == sorted(done)


# -- the matrix --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_matrix_is_eq_5_in_both_directions(databases):
    found = compare(list(databases.values()), centred=True)
    vectors = {name: units(db, living(db)) for name, db in databases.items()}
    mean = np.concatenate(list(vectors.values())).mean(0)
    moved = {name: v - mean for name, v in vectors.items()}
    moved = {name: v / np.linalg.norm(v, axis=1, keepdims=True) for name, v in moved.items()}
    assert found.square().index.tolist() == ["one", "two", "wide"]
    differs = False
    for a in vectors:
        for b in vectors:
            if a == b:
                assert cell(found, a, a) == 1
                assert cell(found, a, a, "centred") == 1
                continue
            expected = set_similarity(vectors[a], vectors[b])
            assert cell(found, a, b) == pytest.approx(expected, abs=2e-6)
            differs |= abs(expected - set_similarity(vectors[b], vectors[a])) > 1e-3
            centred = set_similarity(moved[a], moved[b])
            assert cell(found, a, b, "centred") == pytest.approx(centred, abs=5e-6)
            pair = float((vectors[a] @ vectors[b].T).mean())
            assert cell(found, a, b, "mean_pair") == pytest.approx(pair, abs=1e-5)
    assert differs  # it has a direction
    own = vectors["one"] @ vectors["one"].T
    apart = own[~np.eye(len(own), dtype=bool)].mean()
    assert cell(found, "one", "one", "mean_pair") == pytest.approx(apart, abs=1e-5)


def test_layers_of_one_model_are_compared(databases):
    db = databases["one"]
    found = db.compare(by_layer=True)
    assert [one.name for one in found.sets] == LAYERS
    expected = set_similarity(units(db, living(db, ["first"])), units(db, living(db, ["second"])))
    assert cell(found, "first", "second") == pytest.approx(expected, abs=2e-6)


def test_layers_of_several_models_are_named_by_both(databases):
    found = databases["one"].compare(databases["wide"], by_layer=True, scores=False)
    assert [one.name for one in found.sets] == ["one/first", "one/second", "wide/second"]
    one = databases["one"].compare(databases["wide"], layers="second", scores=False)
    assert cell(one, "one", "wide") == cell(found, "one/second", "wide/second")


def test_only_components_that_matter_for_a_class(databases):
    pair = [databases["one"], databases["two"]]
    found = compare(pair, target="a", minimum=0.05, layers=["second"], scores=False)
    rows = []
    for db in pair:
        table = db.relevance(0, ["second"])
        kept_rows = sorted(table.loc[table["max"] >= 0.05, "component"])
        rows.append([row for row in kept_rows if db.has_examples[row]])
        assert 0 < len(rows[-1]) < len(living(db, ["second"]))
    assert [one.rows.tolist() for one in found.sets] == rows
    expected = set_similarity(units(pair[0], rows[0]), units(pair[1], rows[1]))
    assert cell(found, "one", "two") == pytest.approx(expected, abs=2e-6)


# -- pairs and unique components ---------------------------------------------------------------


def test_pairs_and_unique_components_match_their_definitions(databases):
    found = databases["one"].compare(databases["two"], quantile=0.5, concepts=WORDS)
    a, b = (units(db, living(db)) for db in (databases["one"], databases["two"]))
    cosine = a @ b.T
    pairs = found.pairs
    ahead = pairs[pairs["from"] == "one"].reset_index(drop=True)
    assert len(pairs) == len(a) + len(b)
    for place, row in ahead.iterrows():
        best = int(cosine[place].argmax())
        assert row["component"] == str(databases["one"].component(int(found.sets[0].rows[place])))
        assert row["nearest"] == str(databases["two"].component(int(found.sets[1].rows[best])))
        assert row["similarity"] == pytest.approx(cosine[place, best], abs=2e-6)
        assert row["mutual"] == (cosine[:, best].argmax() == place)
    own = a @ a.T
    np.fill_diagonal(own, -np.inf)
    limit = np.quantile(own.max(1), 0.5)
    assert found.thresholds[0] == pytest.approx(limit, abs=2e-6)
    mine = found.unique[found.unique["from"] == "one"]
    expected = np.flatnonzero(cosine.max(1) < limit)
    assert 0 < len(expected) < len(a)
    assert set(mine["component"]) == {found.sets[0].components[i] for i in expected}
    assert mine["similarity"].is_monotonic_increasing
    assert cell(found, "one", "two", "unique") == len(expected)
    assert found.overview["only_here"][0] == len(expected)
    best = found.best_pairs()
    assert set(best["from"]) == {"one"}
    assert best["similarity"].is_monotonic_decreasing
    assert len(best) == ahead["mutual"].sum()
    assert cell(found, "one", "two", "mutual") == pytest.approx(ahead["mutual"].mean())


def test_planted_shared_and_unique_components(databases, tmp_path):
    """Of ten planted directions two models share seven; three are only in the first."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.standard_normal((24, 24)))[0]
    one, two = copied(databases["one"], tmp_path / "a"), copied(databases["two"], tmp_path / "b")
    rows = len(one.rows(["second"]))
    places = np.arange(rows) % 10
    first = basis[places] + 0.02 * random.standard_normal((rows, 24))
    second = basis[places % 7] + 0.02 * random.standard_normal((rows, 24))
    one, two = plant(one, "second", first), plant(two, "second", second)
    found = one.compare(two, layers=["second"], scores=False)
    alive = living(one, ["second"])
    only = {
        str(one.component(int(row))) for row in alive if places[row - one.rows(["second"])[0]] > 6
    }
    assert only
    unique = found.unique
    assert set(unique.loc[unique["from"] == "a", "component"]) == only
    # the threshold is a 5 % quantile: of alike components one in twenty falls below by chance
    by_chance = unique[unique["from"] == "b"]
    assert len(by_chance) <= 0.1 * rows
    assert (by_chance["similarity"] > 0.95).all()
    assert (unique.loc[unique["from"] == "a", "similarity"] < 0.5).all()
    assert cell(found, "b", "a") > 0.98 > cell(found, "a", "b")


def test_a_threshold_can_be_given(databases):
    found = databases["one"].compare(databases["two"], threshold=2 / 3, scores=False)
    assert found.thresholds == (2 / 3, 2 / 3)
    assert (found.unique["similarity"] < 2 / 3).all()
    assert len(found.unique) == (found.pairs["similarity"] < 2 / 3).sum()


# -- labels and scores -------------------------------------------------------------------------


def test_labels_are_those_of_the_databases(databases):
    pair = [databases["one"], databases["two"]]
    found = compare(pair, concepts=WORDS, label_threshold=LEAST)
    for db, name in zip(pair, ("one", "two"), strict=True):
        frame = db.label(WORDS, threshold=LEAST).to_pandas()
        assert frame["label"].str.startswith("mixed").any(), "they are shown, and not counted"
        mine = found.labels[found.labels["set"] == name].set_index("label")["count"]
        expected = frame["label"][frame["category"].notna()].value_counts()
        assert mine[mine > 0].to_dict() == expected.to_dict()
        share = found.labels[found.labels["set"] == name].set_index("label")["share"]
        assert share[expected.index[0]] == pytest.approx(expected.iloc[0] / len(frame))
    labels = found.pairs[found.pairs["from"] == "one"]["label"].tolist()
    assert [x if isinstance(x, str) else None for x in labels] == [
        x if isinstance(x, str) else None
        for x in pair[0].label(WORDS, threshold=LEAST).to_pandas()["label"]
    ]
    counts = found.labels.pivot(index="label", columns="set", values="count")
    where = found.labels.drop_duplicates("label").set_index("label")["where"]
    said = {
        (True, True): "in every set",
        (True, False): "only in one",
        (False, True): "only in two",
    }
    for label in where.index:
        has = (bool(counts.loc[label, "one"]), bool(counts.loc[label, "two"]))
        assert where[label] == said[has]


def test_sets_without_any_label_are_drawn(databases):
    two = [databases["one"], databases["two"]]
    found = compare(two, concepts=WORDS, label_threshold=9.0)
    assert found.labels is not None
    assert found.labels.empty
    assert len(found.figure().panels) == 2  # the matrix and the scores
    assert len(found.plot().axes) == 3  # and the colours of the matrix


def test_a_concept_of_two_categories_is_one_label(databases):
    twice = ConceptSet(
        (Concept("dog", ("Animals",)), Concept("cat", ("Animals",)), Concept("dog", ("Pets",)))
    )
    pair = [databases["one"], databases["two"]]
    found = compare(pair, concepts=twice, scores=False, label_threshold=-9.0)
    assert found.labels.groupby("label")["category"].first().get("dog") == "Animals"
    assert not found.labels.duplicated(["set", "label"]).any()


@pytest.mark.parametrize("chunk", [4, 1000])
def test_assignment_is_the_label_and_the_nearest_component(databases, chunk, monkeypatch):
    monkeypatch.setattr("semlens.lenses.query_embedding.ALIGNED_ROWS", chunk)
    db = databases["one"]
    one = component_sets([db])[0]
    probe = embed_concepts(db, WORDS)
    method = choose_method([db], "semantic-lens", len(WORDS))
    found = assign_labels(one, probe, WORDS, method, 0.025)
    labels = db.label(WORDS, method="semantic-lens", threshold=0.025)
    names = [c.name for c in WORDS.concepts]
    best = zip(labels.concept[:, 0], labels.is_labelled, strict=True)
    expected = [names[word] if above else None for word, above in best]
    assert [names[i] if i >= 0 else None for i in found.concept] == expected
    theta = units(db, one.rows)
    probes = probe.vectors / np.linalg.norm(probe.vectors, axis=1, keepdims=True)
    null = probe.null / np.linalg.norm(probe.null)
    value = theta @ probes.T - (theta @ null)[:, None]
    assert found.component.tolist() == value.argmax(0).tolist()
    np.testing.assert_allclose(found.concept_score, value.max(0), atol=1e-5)


def test_scores_side_by_side(databases):
    found = databases["one"].compare(databases["two"], layers=["second"])
    frame = databases["two"].scores(["second"]).frame
    frame = frame[frame["examples"] > 0]
    row = found.scores.query("set == 'two' and measure == 'clarity'").iloc[0]
    assert row["mean"] == pytest.approx(frame["clarity"].mean())
    assert row["median"] == pytest.approx(np.median(frame["clarity"]))
    assert row["upper_quartile"] == pytest.approx(np.quantile(frame["clarity"], 0.75))


# -- what is kept ------------------------------------------------------------------------------


def test_scores_belong_to_their_components_in_any_order_of_layers(databases, tmp_path):
    db = copied(databases["two"], tmp_path / "two")
    fresh = db.scores(["second", "first"]).frame
    db.scores()  # from here on they are read from the database, whose first layer is 'first'
    pd.testing.assert_frame_equal(db.scores(["second", "first"]).frame, fresh)
    assert list(fresh["layer"].unique()) == ["second", "first"]
    one = component_sets([db], layers=["second", "first", "second"])[0]
    found = set_scores(one)
    names = [
        f"{r.layer}:{'-' if r.sign < 0 else ''}{r.index}" for r in found.itertuples(index=False)
    ]
    assert names == one.components


def test_nearest_components_are_kept_by_the_vectors_and_found_again(
    databases, tmp_path, monkeypatch
):
    one, two = copied(databases["one"], tmp_path / "a"), copied(databases["two"], tmp_path / "b")
    a, b = component_sets([one, two])
    monkeypatch.setattr(nearest_components, "MIN_CACHED_PAIRS", 1)
    ahead, back = nearest_between_sets(a, b, PairProgress(1))
    own = nearest_within_set(a, PairProgress(1))
    monkeypatch.undo()
    files = [(db, f) for db in (one, two) for f in (db.path / "analysis").glob("nearest-*.parquet")]
    assert len(files) == 4 + 2 + 1  # pairs of layers, each layer alone, and its two layers
    for db, file in files:  # what is read back is what was kept, not what is computed again
        frame = db.load_with_origin(file.stem)
        db.save_analysis(file.stem, frame[0].assign(similarity=np.float32(0.5)), frame[1])
    assert (nearest_between_sets(a, b, PairProgress(1))[0].similarity == 0.5).all()
    assert (nearest_between_sets(b, a, PairProgress(1))[1].similarity == 0.5).all()
    assert (nearest_within_set(a, PairProgress(1)).similarity == 0.5).all()
    # other vectors of the same names are computed anew
    vectors = np.random.default_rng(0).standard_normal((20, 24))
    changed = plant(two, "second", vectors)
    again = nearest_between_sets(a, component_sets([changed])[0], PairProgress(1))[0]
    expected = units(one, a.rows) @ units(changed, living(changed)).T
    # layer 'first' is as it was, and comes from what was kept: 0.5
    second = expected[:, len(living(changed, ["first"])) :].max(1)
    np.testing.assert_allclose(again.similarity, np.maximum(second, 0.5), atol=1e-3)
    assert len(ahead.index) == len(own.index) == len(a)
    assert len(back.index) == len(b)


def test_small_sets_leave_no_files(databases):
    databases["one"].compare(databases["two"])
    assert not list(databases["one"].path.glob("analysis/nearest-*"))
    assert nearest_components.MIN_CACHED_PAIRS > 10**6


# -- result ------------------------------------------------------------------------------------


def test_the_result_is_text_values_plot_and_files(databases, tmp_path):
    found = compare(
        list(databases.values())[:2], concepts=WORDS, label_threshold=LEAST, top=2, centred=True
    )
    text = repr(found)
    for part in ("Eq. 5", "each other's nearest", "labels", "clarity", "our addition"):
        assert part in text
    values = json.loads(json.dumps(found.to_json(), default=float))
    assert len(values["matrix"]) == 4
    assert len(values["pairs"]) <= 2
    assert len(found.figure().panels) == 4
    assert len(found.plot().axes) == 6  # two with their colours
    for name in ("c.png", "c.csv", "c.json"):
        found.save(tmp_path / name)
    assert len(pd.read_csv(tmp_path / "c.csv")) == 4
    picture = found.pairs_picture(columns=3)
    assert isinstance(picture, Image.Image)
    assert np.asarray(picture).std() > 5
    turned = found.pairs_picture("two", "one", columns=3)
    assert turned.width == picture.width
    with pytest.raises(RecipeError, match="Unknown set"):
        found.pairs_picture("three")
    with pytest.raises(RecipeError, match="given twice"):
        found.pairs_picture("one", "one")


def test_many_sets_stay_a_list(databases, tmp_path):
    several = [copied(databases["one"], tmp_path / f"c{i}") for i in range(5)]
    found = compare(several, by_layer=True, scores=False)
    assert len(found.sets) == 10
    assert cell(found, "c0/first", "c1/first") == pytest.approx(1, abs=1e-6)
    assert "most similar" in repr(found)
    assert len(found.plot().axes) >= 1


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_embedder_is_refused_and_both_are_named(databases, tmp_path):
    images = ImageFolder(write_pictures(tmp_path / "pictures", 6))
    other = sl.build(tmp_path / "o", make(LittleNet(0), "one"), images, ColourEmbedder(4),
                     LAYERS, examples=3)  # fmt: skip
    alone = other.compare(by_layer=True, scores=False)
    assert alone.labels is None
    assert any("does not embed texts" in note for note in alone.notes)
    with pytest.raises(StaleError) as error:
        databases["one"].compare(other)
    assert_says(
        error.value, "python:words", "python:colours", "cannot be compared", "with the embedder"
    )
    same = sl.build(tmp_path / "s", make(LittleNet(0), "one"), images, WordEmbedder(4), ["first"],
                    examples=3)  # fmt: skip
    with pytest.raises(StaleError, match="different weights"):
        databases["one"].compare(same)


def test_sets_that_cannot_be_compared_are_refused(databases, tmp_path):
    one, wide = databases["one"], databases["wide"]
    again = sl.open(one.path, embedder=WordEmbedder())
    for given, what, kind in (
        ([], "No database", RecipeError),
        ([one], "only one set", RecipeError),
        ([one, again], "given twice", RecipeError),
    ):
        with pytest.raises(kind, match=what):
            compare(given)
    with pytest.raises(LayerError) as error:
        one.compare(wide, layers=["first"])
    assert_says(error.value, "wide", "none of the layers first", "It has second")
    with pytest.raises(LayerError, match="No layer is named"):
        one.compare(wide, layers=[])
    with pytest.raises(LayerError, match="thrid"):
        one.compare(wide, layers=["second", "thrid"])
    with pytest.raises(RelevanceError, match="--relevance"):
        one.compare(wide, target="a")
    with pytest.raises(RelevanceError, match="Lower the minimum"):
        one.compare(databases["two"], target="a", minimum=1.0)
    for bad in ({"quantile": 1.5}, {"threshold": -3.0}, {"minimum": -0.1}):
        with pytest.raises(RecipeError, match="Expected a number"):
            one.compare(databases["two"], **bad)
    dead = copied(one, tmp_path / "dead")
    frame = pd.read_parquet(dead.path / "components.parquet").assign(examples=0)
    dead.components = frame
    with pytest.raises(RecipeError) as empty:
        one.compare(dead)
    assert_says(empty.value, "dead", "no component with a vector", "leave this set out")


def test_names_tell_databases_apart(databases, tmp_path):
    a = copied(databases["one"], tmp_path / "x" / "same.semlens")
    b = copied(databases["two"], tmp_path / "y" / "same.semlens")
    assert database_names([a, b]) == ["x/same", "y/same"]
    c = copied(databases["two"], tmp_path / "x" / "same")
    assert database_names([a, c]) == ["same.semlens", "same"]
    assert database_names([a, b, c]) == [str(one.path.resolve()) for one in (a, b, c)]


@pytest.mark.slow
def test_other_images_and_settings_are_said(databases, tmp_path):
    images = ImageFolder(write_pictures(tmp_path / "pictures", 8, seed=9))
    other = sl.build(tmp_path / "o", make(LittleNet(0), "one"), images, WordEmbedder(), LAYERS,
                     examples=3)  # fmt: skip
    found = databases["one"].compare(other, scores=False)
    assert databases["one"].compare(other, scores=False).matrix.equals(found.matrix)
    assert any("different images" in note for note in found.notes)
    assert any("'examples' (3, 5)" in note for note in found.notes)
    assert databases["one"].compare(databases["two"], scores=False).notes == ()


# -- drift -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, databases):
    """The first network on its way to the second."""
    root = tmp_path_factory.mktemp("checkpoints")
    images = ImageFolder(write_pictures(root / "pictures", 14))
    start, end = LittleNet(0).state_dict(), LittleNet(1).state_dict()
    made = []
    for share in (0.0, 0.4, 1.0):
        net = LittleNet(0)
        net.load_state_dict({k: (1 - share) * v + share * end[k] for k, v in start.items()})
        path = root / f"at{int(100 * share)}.semlens"
        made.append(
            sl.build(path, make(net, path.name), images, WordEmbedder(), LAYERS, examples=5)
        )
    return made


@pytest.mark.slow
def test_drift_follows_each_component(checkpoints):
    found = drift(checkpoints, concepts=WORDS, label_threshold=LEAST)
    series = found.series.set_index("step")
    assert series.index.tolist() == ["at0", "at40", "at100"]
    vectors = [units(db, living(db)) for db in checkpoints]
    middle = series.loc["at40"]
    assert middle["previous_in_this"] == pytest.approx(
        set_similarity(vectors[0], vectors[1]), abs=2e-6
    )
    assert middle["this_in_previous"] == pytest.approx(
        set_similarity(vectors[1], vectors[0]), abs=2e-6
    )
    assert middle["this_in_last"] == pytest.approx(set_similarity(vectors[1], vectors[2]), abs=2e-6)
    assert series.loc["at100", "this_in_last"] == 1
    assert np.isnan(series.loc["at0", "previous_in_this"])
    rows = [set(living(db)) for db in checkpoints]
    both = sorted(rows[0] & rows[1])
    moved = {}
    for row in both:
        x, y = (units(db, [int(row)])[0] for db in checkpoints[:2])
        moved[str(checkpoints[1].component(int(row)))] = 1 - float(x @ y)
    table = found.components[found.components["step"] == "at40"].set_index("component")["moved"]
    for name, value in moved.items():
        assert table[name] == pytest.approx(value, abs=5e-6)
    assert table.notna().sum() == len(both)
    assert middle["moved"] == pytest.approx(np.mean(list(moved.values())), abs=5e-6)
    assert series.loc["at100", "moved_from_last"] == pytest.approx(0, abs=1e-6)
    labels = [
        dict(zip(living(db), db.label(WORDS, threshold=LEAST).to_pandas()["label"], strict=True))
        for db in checkpoints
    ]
    names = [{r: x if isinstance(x, str) else None for r, x in one.items()} for one in labels]
    changed = np.mean([names[0][row] != names[1][row] for row in both])
    assert middle["relabelled"] == pytest.approx(changed)
    sets = [{x for x in one.values() if x} for one in names]
    assert middle["gained"] == len(sets[1] - sets[0])
    assert middle["lost"] == len(sets[0] - sets[1])
    assert middle["labels"] == len(sets[1])
    assert middle["clarity"] == pytest.approx(checkpoints[1].scores().frame["clarity"].mean())


def test_drift_of_other_shapes_follows_the_sets_only(databases):
    found = databases["one"].drift(databases["wide"], concepts=WORDS)
    assert "do not correspond" in found.mismatch
    assert found.components.empty
    assert found.series["moved"].isna().all()
    assert found.series["previous_in_this"].notna().sum() == 1
    assert "do not correspond" in repr(found)
    widths = databases["one"].drift(databases["wide"], layers=["second"])
    assert "channels" in widths.mismatch
    assert found.to_json()["components_correspond"] is False
    found.plot()


@pytest.mark.slow
def test_drift_is_text_values_plot_and_files(checkpoints, tmp_path):
    found = drift(checkpoints, steps=["0", "40", "100"], concepts=WORDS)
    for part in ("set similarity", "movement", "moved farthest", "relabelled"):
        assert part in repr(found)
    assert len(found.figure().panels) == 4
    assert len(found.plot().axes) == 6  # two with their colours
    plain = drift(*checkpoints, concepts=None, scores=False)
    assert len(plain.figure().panels) == 2
    found.save(tmp_path / "drift.json")
    values = json.loads((tmp_path / "drift.json").read_text())
    assert [row["step"] for row in values["series"]] == ["0", "40", "100"]
    assert values["series"][0]["moved"] is None
    for steps in (["a"], ["a", "a", "b"]):
        with pytest.raises(RecipeError, match="3 different names"):
            drift(checkpoints, steps=steps)
    with pytest.raises(RecipeError, match="only one checkpoint"):
        drift(checkpoints[:1])


# -- command line ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Two databases of the bundled embedder, that a command can load."""
    root = tmp_path_factory.mktemp("disk")
    images = ImageFolder(write_pictures(root / "pictures", 6))
    return [
        str(sl.build(root / f"m{seed}", make(LittleNet(seed), f"m{seed}"), images, "semlens/demo",
                     ["first"], examples=3).path)
        for seed in (0, 1)
    ]  # fmt: skip


def run(*words):
    return CliRunner().invoke(app, [*words])


@pytest.mark.slow
def test_compare_on_the_command_line(on_disk, tmp_path):
    save, pairs = tmp_path / "c.png", tmp_path / "p.png"
    done = run(
        "compare", *on_disk, "--by-layer", "--save", str(save), "--pairs", str(pairs), "--json"
    )
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert [row["set"] for row in values["sets"]] == ["m0/first", "m1/first"]
    assert {row["set"] for row in values["labels"]} <= {row["set"] for row in values["sets"]}
    assert Image.open(save).size[0] > 300
    assert Image.open(pairs).size[0] > 300
    table = run("compare", *on_disk, "--concepts", "none", "--no-scores")
    assert table.exit_code == 0
    assert "Eq. 5" in table.stdout
    assert "labels" not in table.stdout


@pytest.mark.slow
def test_series_on_the_command_line(on_disk):
    done = run("drift", *on_disk, "--step", "start", "--step", "end", "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert [row["step"] for row in values["series"]] == ["start", "end"]
    assert values["components_correspond"]


def test_wrong_words_on_the_command_line(on_disk, tmp_path):
    for words, said in (
        (("--save", "x.doc"), "x.doc"),
        (("--pairs", "x.pdf"), "x.pdf"),
    ):
        done = run("compare", *on_disk, *words)
        assert done.exit_code == 1, words
        assert said in done.stderr
    assert run("compare", on_disk[0], on_disk[0]).exit_code == 1
    for words, said in (
        (("--top", "3"), "--top"),
        (("--by-layer",), "--by-layer"),
        (("--pairs", str(tmp_path / "p.png")), "--pairs"),
    ):
        done = run("drift", *on_disk, *words)
        assert done.exit_code == 2, words
        assert said in done.stderr
    assert run("compare", *on_disk, "--steps", "a,b").exit_code == 2
    assert StoreError.__name__ in run("compare", on_disk[0], str(tmp_path / "no")).stderr
