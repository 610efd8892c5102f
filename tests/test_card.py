"""A component's card against plain float64 loops over the database's own tables."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, assert_says, to_tensor

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import LayerError, RecipeError, RelevanceError, StaleError
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.describe.component_card import card, class_relevances, measures
from semlens.lenses.describe.label_candidates import saved_candidates
from semlens.lenses.describe.neighbours import counterpart, neighbours
from semlens.lenses.describe.score_distribution import MEANINGS
from semlens.lenses.labelling.label import label
from semlens.lenses.labelling.senses import split_examples
from semlens.lenses.query_embedding import embed_texts
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener

LAYERS = ["first", "second"]
WORDS = ["dog", "green frog", "car", "tree", "sky"]
CONCEPTS = ConceptSet((*(Concept(w, ("things",)) for w in WORDS), Concept("car", ("traffic",))))


def make(path, pictures, embedder, seed=0, **settings):
    subject = SubjectModel(LittleNet(seed), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    settings = {"examples": 8, "relevance": True, "targets": targets, **settings}
    return sl.build(path, subject, images, embedder, LAYERS, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("card")


@pytest.fixture(scope="module")
def db(folder, pictures):
    return make(folder / "db", pictures, WordEmbedder())


@pytest.fixture(scope="module")
def other(folder, pictures):
    return make(folder / "other", pictures, WordEmbedder(), seed=5, relevance=False)


def cos(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def rows_with_examples(db):
    return [row for row in range(db.manifest.rows) if db.has_examples[row]]


# -- who it is, and its examples ---------------------------------------------------------------


@pytest.mark.slow
def test_card_holds_what_the_tables_hold(db):
    table = {name: db.examples(name) for name in LAYERS}
    row = 0
    for layer in LAYERS:
        entry = db.layer(layer)
        for _ in range(entry.rows):
            got = card(db, row)
            assert got.layer_rows == entry.rows
            assert got.component == db.component(row)
            assert db.row(got.component) == row
            mine = table[layer]
            mine = mine[(mine["component"] == row) & mine["crop"].notna()].sort_values("rank")
            assert [e.rank for e in got.examples] == list(range(len(mine)))
            assert [e.sample for e in got.examples] == mine["sample"].tolist()
            assert [e.activation for e in got.examples] == mine["activation"].tolist()
            assert [list(e.box.as_tuple()) for e in got.examples] == [list(b) for b in mine["box"]]
            assert [e.masked for e in got.examples] == mine["mask"].notna().tolist()
            for example in got.examples:
                assert example.path == db.samples["path"][example.sample]
                assert example.class_name == "abd"[example.sample % 3]
            row += 1
    assert row == db.manifest.rows


def test_statistics_are_those_of_the_channel_and_say_their_side(db):
    entry = db.layer("second")
    assert entry.rows == 2 * entry.channels, "the second layer is signed"
    for row in (entry.first, entry.first + entry.channels):
        got = {one.name: one for one in card(db, row).statistics}
        stored = db.components.iloc[row]
        assert {name: one.value for name, one in got.items()} == {
            name: float(stored[name])
            for name in ("firing_rate", "maximum", "minimum", "mean", "std", "samples")
        }
        side = "above" if card(db, row).component.sign > 0 else "below"
        assert f"an activation {side} zero at" in got["firing_rate"].meaning
        assert "mean over space" in got["maximum"].meaning


# -- classes -------------------------------------------------------------------------------------


def test_class_relevances_are_ranked_within_the_layer(db):
    table = db.relevance()
    seen = 0
    for row in range(db.manifest.rows):
        entry = db.layer(db.component(row).layer)
        mine = table[table["component"] == row].to_dict("records")
        expected = sorted(
            (one for one in mine if one["mean"] > 0), key=lambda one: (-one["mean"], one["class"])
        )
        got = class_relevances(db, row, top=2)
        assert [one.logit for one in got] == [one["class"] for one in expected[:2]]
        for one, stored in zip(got, expected, strict=False):
            assert (one.mean, one.max) == (stored["mean"], stored["max"])
            assert one.name == "abcd"[one.logit]
            rivals = [
                r["mean"]
                for r in table.to_dict("records")
                if r["class"] == one.logit
                and entry.first <= r["component"] < entry.first + entry.rows
            ]
            assert one.rank == 1 + sum(value > one.mean for value in rivals)
            assert one.components == len(rivals)
            seen += 1
    assert seen > 10
    assert class_relevances(db, 0, top=0) == ()


@pytest.mark.slow
def test_without_relevance_the_card_says_how_to_get_it(other):
    with pytest.raises(RelevanceError) as error:
        class_relevances(other, 0)
    assert_says(error.value, "no class relevance", "--relevance", "semlens build")


# -- measures --------------------------------------------------------------------------------------


def test_measures_stand_where_counting_puts_them(db):
    for layer in LAYERS:
        frame = db.scores([layer]).to_pandas()
        for place in range(len(frame)):
            for one in measures(frame, place, bins=5):
                values = [v for v in frame[one.name].tolist() if v == v]
                assert sum(one.counts) == len(values)
                assert (one.low, one.high) == (min(values), max(values))
                width = (one.high - one.low) / 5
                for i, count in enumerate(one.counts):
                    first, last = one.low + i * width, one.low + (i + 1) * width
                    inside = [v for v in values if first + 1e-9 < v < last - 1e-9]
                    touching = [v for v in values if first - 1e-9 <= v <= last + 1e-9]
                    assert len(inside) <= count <= len(touching)
                mine = frame[one.name][place]
                if np.isnan(mine):
                    assert one.value is None and one.below is None
                else:
                    assert one.value == mine
                    assert one.below == sum(v < mine for v in values) / len(values)
                assert one.meaning is MEANINGS[one.name] and one.formula


def test_a_measure_without_a_value_has_no_place(db):
    frame = db.scores(["first"]).to_pandas()
    frame[["clarity", "redundancy", "polysemanticity"]] = np.nan
    for one in measures(frame, 0):
        assert (one.value, one.below, one.counts, one.low, one.high) == (
            None,
            None,
            (),
            None,
            None,
        )


# -- labels ----------------------------------------------------------------------------------------


def test_kept_labels_come_back_as_they_were(db):
    labels = label(db, CONCEPTS, candidates=3, threshold=0.1)
    labels.save_to_database("mine")
    frame = labels.to_pandas()
    got = saved_candidates(db, "mine", labels.rows, top=2)
    for place, mine in enumerate(got):
        assert mine is not None
        assert mine.label == labels.label(place)
        assert [one.name for one in mine.candidates] == frame["candidates"][place][:2]
        assert [one.score for one in mine.candidates] == frame["scores"][place][:2]
        assert mine.margin == frame["margin"][place]
        assert mine.threshold == pytest.approx(0.1)
        if mine.label == mine.candidates[0].name:  # not mixed
            assert mine.candidates[0].category == frame["category"][place]
    assert saved_candidates(db, "nobody", labels.rows[:2]) == [None, None]
    db.save_analysis("labels-mine", frame[frame["layer"] == "first"])
    last = saved_candidates(db, "mine", labels.rows[-1:])
    assert last == [None], "this layer was not labelled"
    (db.path / "analysis" / "labels-mine.parquet").unlink()


def test_embedding_a_vocabulary_tells_how_far_it_is():
    seen = []
    texts = [f"word{i}" for i in range(300)]
    with progress_listener(lambda *at: seen.append(at)):
        once = embed_texts(WordEmbedder(seed=9), texts, ("{}", "a {}"))
    assert seen == [("embedding texts", done, 600) for done in [*range(64, 600, 64), 600]]
    for place in (0, 127, 128, 299):
        alone = embed_texts(WordEmbedder(seed=9), [texts[place]], ("{}", "a {}"))
        np.testing.assert_array_equal(alone[0], once[place])
    seen.clear()
    with progress_listener(lambda *at: seen.append(at)):
        embed_texts(WordEmbedder(seed=9), texts, ("{}", "a {}"))
    assert seen == [], "what is known is not embedded again"


# -- senses ----------------------------------------------------------------------------------------


def test_senses_are_the_best_split_of_the_examples(db):
    for layer in LAYERS:
        entry, frame = db.layer(layer), db.scores([layer]).to_pandas()
        poly = frame["polysemanticity"].to_numpy()
        for row in range(entry.first, entry.first + entry.rows):
            got = split_examples(db, row)
            crops = [example.crop for example in db.examples_of(row)]
            if len(crops) < 2:
                assert got is None
                continue
            units = db.crop_vectors[crops].astype(np.float64)
            units /= np.linalg.norm(units, axis=1, keepdims=True)
            first, second = got.ranks
            assert sorted(first + second) == list(range(len(crops)))
            assert len(first) >= len(second)
            vectors = [np.mean([units[p] for p in ranks], axis=0) for ranks in got.ranks]
            assert all(list(ranks) == sorted(ranks) for ranks in got.ranks)
            # Eq. 10 of this very split is the measure that the layer shows
            assert 1 - cos(*vectors) == pytest.approx(poly[row - entry.first], abs=1e-5)
            assert got.polysemanticity == pytest.approx(poly[row - entry.first], abs=1e-5)
            for one, (mine, apart) in zip(got.ranks, (vectors, vectors[::-1]), strict=True):
                for place in one:
                    near = np.sum((units[place] - mine) ** 2)
                    assert near <= np.sum((units[place] - apart) ** 2) + 1e-6


# -- neighbours and twins --------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [None, ["second"]])
def test_neighbours_are_the_largest_cosines(db, layers):
    among = [r for r in rows_with_examples(db) if layers is None or db.component(r).layer in layers]
    for row in rows_with_examples(db):
        exact = {r: cos(db.theta[row], db.theta[r]) for r in among if r != row}
        best = sorted(exact, key=lambda r: (-exact[r], r))[:4]
        got = neighbours(db, row, 4, layers)
        assert [db.row(one.component) for one in got] == best
        assert [one.cosine for one in got] == pytest.approx([exact[r] for r in best], abs=1e-6)


@pytest.mark.slow
def test_a_twin_is_the_nearest_of_the_other_model(db, other):
    mutual = set()
    for row in rows_with_examples(db):
        there = {r: cos(db.theta[row], other.theta[r]) for r in rows_with_examples(other)}
        best = max(there, key=lambda r: (there[r], -r))
        here = {r: cos(other.theta[best], db.theta[r]) for r in rows_with_examples(db)}
        got = counterpart(db, row, other)
        assert got.nearest is not None
        assert (other.row(got.nearest.component), got.mutual) == (
            best,
            max(here, key=lambda r: (here[r], -r)) == row,
        )
        assert got.nearest.cosine == pytest.approx(there[best], abs=1e-6)
        mutual.add(got.mutual)
    assert mutual == {True, False}


def test_twins_need_one_embedder_and_two_models(db, folder, pictures):
    colours = make(folder / "colours", pictures, ColourEmbedder(3), relevance=False)
    with pytest.raises(StaleError) as error:
        counterpart(db, 0, colours)
    assert_says(error.value, "python:words", "python:colours", "with the embedder")
    with pytest.raises(RecipeError) as same:
        counterpart(db, 0, db)
    assert_says(same.value, "given twice")


def test_a_component_without_examples_has_no_neighbours(db, other, monkeypatch):
    silent = db.components.copy()
    silent.loc[3, "examples"] = 0
    monkeypatch.setitem(db.__dict__, "components", silent)
    for ask in (lambda: neighbours(db, 3), lambda: counterpart(db, 3, other)):
        with pytest.raises(LayerError) as error:
            ask()
        assert_says(error.value, "'first:3' has no examples", "concept vector", "another component")
    assert 3 not in [db.row(one.component) for one in neighbours(db, 0, 99)]
